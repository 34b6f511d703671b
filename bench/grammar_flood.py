"""Thousands of requests, each with a schema that nobody sent before: what is kept, and the memory it takes.

Caches are bounded, so that memory stops growing once they are full: in the process that serves, and in the
one that compiles.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import Any

import psutil

from quire import LLM, SamplingParams, StructuredOutputsParams
from quire.errors import InvalidRequestError
from quire.testing.schema_corpus import schema_corpus

_AT_A_TIME = 500


def unique(number: int, schema: Any) -> dict[str, Any]:
    """A schema of the corpus inside one that is like no other."""
    return {
        "type": "object",
        "properties": {f"key {number}": {"const": number}, "value": schema},
        "required": [f"key {number}", "value"],
    }


def usable(llm: LLM) -> list[Any]:
    """Schemas of the corpus that the backend takes, and that mean the same inside another."""
    found = []
    for _, schema in schema_corpus(97):
        form = StructuredOutputsParams(json=unique(0, schema))
        if "$ref" in json.dumps(schema):
            continue
        try:
            llm.generate("x", SamplingParams(max_tokens=1, structured_outputs=form), use_tqdm=False)
        except InvalidRequestError:
            continue
        found.append(schema)
    return found


def main() -> None:
    """Send them, and print a line for every few hundred."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["xgrammar", "llguidance"])
    parser.add_argument("--count", type=int, default=10_000)
    asked = parser.parse_args()
    process = psutil.Process()
    with LLM(
        "tiny", show_progress=False, structured_outputs={"backend": asked.backend, "compile_timeout": 20}
    ) as llm:
        print(f"{asked.backend}: requests, seconds, MiB of this process, MiB of the compiler")
        corpus = usable(llm)
        start = time.perf_counter()
        for first in range(0, asked.count, _AT_A_TIME):
            params = [
                SamplingParams(
                    seed=number,
                    max_tokens=2,
                    structured_outputs=StructuredOutputsParams(
                        json=unique(number, corpus[number % len(corpus)])
                    ),
                )
                for number in range(first, min(first + _AT_A_TIME, asked.count))
            ]
            llm.generate(["x"] * len(params), params, use_tqdm=False)
            gc.collect()
            own = process.memory_info().rss / 2**20
            compiler = sum(child.memory_info().rss for child in process.children(recursive=True)) / 2**20
            print(
                f"{first + len(params):6d} {time.perf_counter() - start:7.1f} {own:8.0f} {compiler:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
