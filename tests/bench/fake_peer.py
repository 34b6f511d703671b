"""A peer that answers at once, in a process of its own. The option `fault` makes it break in one way."""

from __future__ import annotations

import os
import time

from harness.adapters.worker import Adapter, Request, Result, serve


class FakePeer(Adapter):
    """Tokens are zeros, a millisecond apart."""

    def load(self) -> None:
        print("an engine may print what it likes")

    def generate(self, requests: list[Request]) -> list[Result]:
        fault = self.options.get("fault")
        if fault == "dies":
            os._exit(3)
        if fault == "raises":
            raise MemoryError("no room for the cache")
        short = fault == "short"
        begin = time.perf_counter()
        return [
            Result([0] * (one.new - short), [begin + 1e-3 * (i + 1) for i in range(one.new - short)])
            for one in requests
        ]


if __name__ == "__main__":
    serve(FakePeer)
