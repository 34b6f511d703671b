"""A peer's worker, seen from outside: load, warm up, run. The other end is `adapters.worker`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.adapters.worker import Request
from harness.peers import Peer
from harness.process import Process, text_pipes
from harness.workloads import Answer


class PeerFailed(Exception):  # noqa: N818 - it is what happened
    """A peer could not do what it was asked; its own words are in it."""


class WorkerProcess(Process):
    """The process in which a peer's engine lives."""

    def __init__(self, peer: Peer, model: str) -> None:
        super().__init__(f"{peer.name}-{model}", peer.command, peer.env, **text_pipes())
        self.peer = peer

    def load(self) -> None:
        """Have the engine loaded. Raises PeerFailed."""
        self._ask({"do": "load"})

    def run(self, requests: Sequence[Request]) -> Answer:
        """Have requests answered. Raises PeerFailed."""
        reply = self._ask({"do": "run", "requests": requests})
        return Answer(reply["seconds"], reply["tokens"], reply["times"], reply["measured"])

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        commands, replies = self.pipes
        try:
            print(json.dumps(command), file=commands, flush=True)
            line = replies.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerFailed(f"the process ended; its log is {self.log}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise PeerFailed(reply["error"])
        return reply
