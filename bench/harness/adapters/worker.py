"""The loop inside a peer's process: one JSON line in, one out. Standard library only.

Commands are `{"do": "load"}` and `{"do": "run", "requests": [[prompt ids, new tokens], ...]}`. What the
engine itself prints goes to standard error. End of input ends the process, at once: some engines hang in
their own shutdown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from typing import Any, NamedTuple


class Request(NamedTuple):
    """A prompt as token ids, and the number of tokens to generate, greedily, whatever they are."""

    prompt: list[int]
    new: int


class Result(NamedTuple):
    """What one request gave: its ids, and when each came (`time.perf_counter()`), one time per token."""

    tokens: list[int]
    times: list[float]


class Adapter(ABC):
    """An engine as the harness wants it.

    Attributes:
        model: path of the checkpoint, in whatever form the engine reads.
        threads: how many to use, where the engine can be told.
        options: of the peer's table in peers.toml.
    """

    def __init__(self, model: str, threads: int, options: dict[str, Any]) -> None:
        self.model, self.threads, self.options = model, threads, options

    @abstractmethod
    def load(self) -> None:
        """Import the engine, load the model: afterwards the first request may come."""

    @abstractmethod
    def generate(self, requests: list[Request]) -> list[Result]:
        """Answer requests that are all there at the start; one result each, in order."""

    def measured(self) -> dict[str, float]:
        """Figures of the last run that only the adapter knows; none for an engine."""
        return {}


def answer(adapter: Adapter, command: dict[str, Any]) -> dict[str, Any]:
    """Do what a command says."""
    if command["do"] == "load":
        adapter.load()
        return {}
    requests = [Request(prompt, new) for prompt, new in command["requests"]]
    begin = time.perf_counter()
    results = adapter.generate(requests)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "tokens": [one.tokens for one in results],
        "times": [[moment - begin for moment in one.times] for one in results],
        "measured": adapter.measured(),
    }


def serve(kind: type[Adapter]) -> None:
    """The process: answer until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--options", type=json.loads, required=True)
    args = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    adapter = kind(args.model, args.threads, args.options)
    for line in sys.stdin:
        try:
            reply = answer(adapter, json.loads(line))
        except Exception as error:  # a peer that cannot is a result, too
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")
    replies.flush()
    sys.stderr.flush()
    os._exit(0)
