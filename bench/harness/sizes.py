"""Cost against size: which points are measured, what is kept of them, how they are shown.

Knows numbers; knows no engine.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from harness.markdown import align, number
from harness.record import Machine


class Point(BaseModel):
    """A batch of requests with as many tokens each in the KV cache.

    Attributes:
        step_ms: median time of a decode step.
        prefill_tok_s: rate at which their prompts were computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch: int
    context: int
    step_ms: float
    prefill_tok_s: float


class SizeReport(BaseModel):
    """A sweep of one model on one machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    started: str
    command: str
    machine: Machine
    model: str
    versions: dict[str, str]
    points: tuple[Point, ...]


def grid(batches: Sequence[int], contexts: Sequence[int], most_tokens: int) -> list[tuple[int, int]]:
    """The batches and contexts whose product the KV cache is to hold."""
    return [(batch, context) for context in contexts for batch in batches if batch * context <= most_tokens]


def step_seconds(times: Sequence[Sequence[float]]) -> float:
    """Median time between tokens while all requests were decoding; one sequence of times per request.

    Requests do not all begin in the same step: what counts is between the first token of the last to begin
    and the last token of the first to end.

    Raises:
        ValueError: they were never all at it for two tokens.
    """
    begin, end = max(one[0] for one in times), min(one[-1] for one in times)
    last = max(times, key=lambda one: one[0])
    steps = [moment for moment in last if begin <= moment <= end]
    if len(steps) < 2:
        raise ValueError("The requests did not decode together: ask for more tokens of each.")
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(steps))


def sizes_text(report: SizeReport) -> str:
    """Tables of the step's time and of the prompts' rate."""
    batches = sorted({point.batch for point in report.points})
    contexts = sorted({point.context for point in report.points})
    found = {(point.batch, point.context): point for point in report.points}

    def table(what: str, shown: dict[tuple[int, int], float]) -> str:
        lines = [[what, *(str(batch) for batch in batches)], ["---"] * (len(batches) + 1)]
        for context in contexts:
            values = (shown.get((batch, context)) for batch in batches)
            lines.append([str(context), *("" if one is None else number(one) for one in values)])
        return align(lines)

    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    where = (
        f"{report.started[:10]}, `python bench/sizes.py {report.command}`, {report.model} in bf16; "
        f"{machine.processor}, {machine.cores} cores; {versions}."
    )
    return "\n\n".join(
        [
            where,
            "Milliseconds of a decode step, by tokens in each request's cache (down) and requests (across):",
            table("context", {key: point.step_ms for key, point in found.items()}),
            "Prompt tokens per second:",
            table("context", {key: point.prefill_tok_s for key, point in found.items()}),
        ]
    )
