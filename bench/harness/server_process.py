"""A peer's own OpenAI-compatible server, and a round of load on it by `quire bench serve`'s client."""

from __future__ import annotations

import socket
import time
import urllib.request

import uvloop

from harness.peers import Peer, fill
from harness.process import Process
from harness.worker_process import PeerFailed
from harness.workloads import HIGHEST_ID, LOWEST_ID, WrongCount
from quire.errors import ConfigError
from quire_server.bench import Address, Lengths, LoadSettings, run_load, summarise

START_SECONDS = 600.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def online_load(rate: float, requests: int, round_: int) -> LoadSettings:
    """The requests of a round: the same for every peer, other ones in each round."""
    return LoadSettings(
        input_len=Lengths(32, 256),
        output_len=Lengths(32, 128),
        token_ids=Lengths(LOWEST_ID, HIGHEST_ID),
        request_rate=rate,
        concurrency=1024,
        num_requests=requests,
        warmup=2,
        seed=round_,
    )


class ServerProcess(Process):
    """A server that can be stopped and continued between rounds."""

    def __init__(self, peer: Peer, model: str) -> None:
        self.peer = peer
        port = free_port()
        self.address = Address("http", "127.0.0.1", port)
        command = [fill(word, {"port": str(port)}) for word in peer.spec.server]
        super().__init__(f"{peer.name}-{model}-server", command, peer.env)

    def wait(self) -> None:
        """Until it answers. Raises PeerFailed."""
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                raise PeerFailed(f"the server did not start; its log is {self.log}")
            time.sleep(0.2)

    def load(self, settings: LoadSettings) -> dict[str, float]:
        """One round.

        Raises:
            PeerFailed: a request failed.
            WrongCount: a request got another number of tokens than it asked for.
        """
        try:
            run = uvloop.run(run_load(self.address, settings))
        except ConfigError as error:
            raise PeerFailed(str(error)) from None
        summary = summarise(run.samples, run.seconds)
        if summary.failures:
            detail = next(one.detail for one in run.samples if one.failure is not None)
            raise PeerFailed(f"requests failed: {summary.failures}, {detail}")
        if summary.wrong_length:
            raise WrongCount(f"online: {summary.wrong_length} requests of {summary.requests}")
        assert summary.ttft is not None
        assert summary.itl is not None
        return {
            "ttft_p50_ms": summary.ttft.p50,
            "ttft_p99_ms": summary.ttft.p99,
            "itl_p50_ms": summary.itl.p50,
            "itl_p99_ms": summary.itl.p99,
            "online_tok_s": summary.output_tokens_per_second,
        }

    def _answers(self) -> bool:
        # /v1/models is not enough: llama.cpp's server lists its model before it has loaded it
        try:
            with urllib.request.urlopen(f"{self.address.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
