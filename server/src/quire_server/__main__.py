"""`python -m quire_server --model ... --host ... --port ...`: as vLLM's users start a server."""

from __future__ import annotations

import sys

from quire.cli import main


def arguments(given: list[str]) -> list[str]:
    """The same as `quire serve`, whose model is an argument instead of `--model`."""
    rest: list[str] = []
    model: list[str] = []
    words = iter(given)
    for word in words:
        if word == "--model":
            model = [next(words, "")]
        elif word.startswith("--model="):
            model = [word.removeprefix("--model=")]
        else:
            rest.append(word)
    return ["serve", *model, *rest]


if __name__ == "__main__":
    raise SystemExit(main(arguments(sys.argv[1:])))
