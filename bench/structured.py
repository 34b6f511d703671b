"""Structured output on the bundled model: how much of it is valid, and what it costs.

Every schema of the corpus at temperature 1, then tokens per second of a batch with a grammar on every
request and without, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from jsonschema import Draft202012Validator

from quire import LLM, SamplingParams, StructuredOutputsParams
from quire.errors import InvalidRequestError
from quire.testing.schema_corpus import schema_corpus

_LONG = {
    "type": "array",
    "items": {"type": "object", "properties": {"word": {"type": "string", "maxLength": 40}}},
    "minItems": 99,
}


def validity(llm: LLM, count: int, max_tokens: int) -> None:
    """Run the corpus, and print what became of it."""
    params, schemas, refused = [], [], 0
    for number, (_, schema) in enumerate(schema_corpus(count)):
        form = StructuredOutputsParams(json=schema)
        try:
            llm.generate("x", SamplingParams(max_tokens=1, structured_outputs=form), use_tqdm=False)
        except InvalidRequestError:
            refused += 1
            continue
        params.append(SamplingParams(seed=number, max_tokens=max_tokens, structured_outputs=form))
        schemas.append(schema)
    outputs = llm.generate(["def main():\n"] * len(params), params, use_tqdm=False)
    ended = [
        (s, o.outputs[0].text)
        for s, o in zip(schemas, outputs, strict=True)
        if o.outputs[0].finish_reason == "stop"
    ]
    cut = sum(output.outputs[0].finish_reason == "length" for output in outputs)
    valid = sum(_valid(text, schema) for schema, text in ended)
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(f"schemas {count}  refused {refused}  ended {len(ended)}  valid {valid}")
    print(f"cut by the token limit {cut} ({cut / len(outputs):.1%})")
    print(f"tokens {tokens}, of them appended {llm.get_metrics().num_forced_tokens}")


def _valid(text: str, schema: Any) -> bool:
    try:
        return bool(Draft202012Validator(schema).is_valid(json.loads(text)))
    except ValueError:
        return False


def cost(llm: LLM, batch: int, tokens: int, rounds: int) -> None:
    """Print tokens per second with and without a grammar, in alternating rounds."""
    form = StructuredOutputsParams(json=_LONG)
    sides = {"without": None, "with": form}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(rounds + 1):
        for side, one in sides.items():
            params = [
                SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True, structured_outputs=one)
                for i in range(batch)
            ]
            start = time.perf_counter()
            outputs = llm.generate([f"def f{i}():\n" for i in range(batch)], params, use_tqdm=False)
            rate = sum(len(output.outputs[0].token_ids) for output in outputs) / (time.perf_counter() - start)
            if round_:  # the first warms up
                rates[side].append(rate)
    middle = {side: statistics.median(found) for side, found in rates.items()}
    print(
        f"batch {batch}: {middle['without']:.0f} tokens/s without, {middle['with']:.0f} with: "
        f"{middle['with'] / middle['without']:.1%}"
    )


def main() -> None:
    """Measure one backend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["xgrammar", "llguidance"])
    parser.add_argument("--schemas", type=int, default=320)
    parser.add_argument("--max-tokens", type=int, default=900)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with LLM(
        "tiny", show_progress=False, structured_outputs={"backend": asked.backend, "compile_timeout": 20}
    ) as llm:
        print(asked.backend)
        if asked.schemas:
            validity(llm, asked.schemas, asked.max_tokens)
        if asked.rounds:
            cost(llm, asked.batch, 128, asked.rounds)


if __name__ == "__main__":
    main()
