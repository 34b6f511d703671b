"""Structured output on the bundled model: how much of it is valid, and what it costs.

Every schema of the corpus at temperature 1, then tokens per second with a grammar on every request and
without, in turns: all seats are taken, by requests of which more wait, so that a request that ends early
makes room for the next. What a grammar costs is some host time per step, whatever the model: of a small
model's step it is a larger part.
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
FORMS = {
    "list of objects": StructuredOutputsParams(json=_LONG),
    "any text": StructuredOutputsParams(regex=r"[ -~\n]*~~~~"),
}
"""What is asked for where speed is measured: one with tokens that are forced, one without."""

_WAVES = 3


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
    long = [
        json.dumps(s) for s, o in zip(schemas, outputs, strict=True) if o.outputs[0].finish_reason == "length"
    ]
    cut = len(long)
    valid = sum(_valid(text, schema) for schema, text in ended)
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(f"schemas {count}  refused {refused}  ended {len(ended)}  valid {valid}")
    print(f"cut by the token limit {cut} ({cut / len(outputs):.1%})")
    for one in long:
        print(f"  {one}")
    print(f"tokens {tokens}, of them appended {llm.get_metrics().num_forced_tokens}")


def _valid(text: str, schema: Any) -> bool:
    try:
        return bool(Draft202012Validator(schema).is_valid(json.loads(text)))
    except ValueError:
        return False


def cost(llm: LLM, batch: int, tokens: int, rounds: int) -> None:
    """Print tokens per second with each form and without, in alternating rounds."""
    sides = {"without": None, **FORMS}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    count = _WAVES * batch
    for round_ in range(rounds + 1):
        for side, form in sides.items():
            params = [
                SamplingParams(seed=i, max_tokens=tokens, ignore_eos=True, structured_outputs=form)
                for i in range(count)
            ]
            start = time.perf_counter()
            outputs = llm.generate([f"def f{i}():\n" for i in range(count)], params, use_tqdm=False)
            rate = sum(len(output.outputs[0].token_ids) for output in outputs) / (time.perf_counter() - start)
            if round_:  # the first warms up
                rates[side].append(rate)
    without = statistics.median(rates.pop("without"))
    print(f"{count} requests, {batch} at a time: {without:.0f} tokens/s without")
    for side, found in rates.items():
        print(f"  {side}: {statistics.median(found):.0f}, {statistics.median(found) / without:.1%}")


def main() -> None:
    """Measure one backend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["xgrammar", "llguidance"])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--schemas", type=int, default=320, help="0: no corpus")
    parser.add_argument("--max-tokens", type=int, default=900)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of each request, where speed is measured")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with LLM(
        asked.model,
        show_progress=False,
        max_num_seqs=asked.batch,
        structured_outputs={"backend": asked.backend, "compile_timeout": 20},
    ) as llm:
        print(asked.backend, asked.model)
        if asked.schemas:
            validity(llm, asked.schemas, asked.max_tokens)
        if asked.rounds:
            cost(llm, asked.batch, asked.tokens, asked.rounds)


if __name__ == "__main__":
    main()
