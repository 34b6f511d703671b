"""What a run amounts to: percentiles, rates, goodput, failures by reason.

Knows samples; knows no server. Percentiles interpolate linearly between ranks, as numpy's do by default.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from quire.errors import ConfigError
from quire_server.bench.client import Sample

PERCENTILES = (50, 90, 95, 99)
LATE = 5e-3
"""Seconds."""

LIMITS = ("ttft", "tpot", "itl", "e2e")
_LIMIT = re.compile(r"\s*(\w+)\s*=\s*([0-9.]+)\s*(ms|s)\s*\Z")


def percentile(ordered: Sequence[float], percent: float) -> float:
    """A percentile of values in ascending order."""
    rank = (len(ordered) - 1) * percent / 100
    below = int(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


@dataclass(frozen=True, slots=True)
class Figures:
    """Summary of times, in milliseconds."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Figures | None:
        """None if there is nothing to summarise."""
        if not seconds:
            return None
        ordered = sorted(1e3 * one for one in seconds)
        return cls(sum(ordered) / len(ordered), *(percentile(ordered, percent) for percent in PERCENTILES))


@dataclass(frozen=True, slots=True)
class Summary:
    """A run's figures.

    Attributes:
        seconds: the run's duration.
        requests, completed: sent, and ended as they should.
        failures: requests by reason of failure.
        wrong_length: completed requests with other than the tokens asked for (while EOS is ignored).
        late: requests sent more than `LATE` after they were due; many mean that the client or its limit was
            the bottleneck.
        prompt_tokens, output_tokens: of completed requests, as the server counts them.
        counted_by: how output tokens were counted, requests each.
        requests_per_second, output_tokens_per_second: of completed requests, over the whole run.
        goodput: completed requests per second that kept every limit; None without limits.
        ttft: time to first token.
        tpot: time per output token after the first, a request's mean.
        itl: time between chunks with tokens, of all requests.
        e2e: time to the last token.
    """

    seconds: float
    requests: int
    completed: int
    failures: dict[str, int]
    wrong_length: int
    late: int
    prompt_tokens: int
    output_tokens: int
    counted_by: dict[str, int]
    requests_per_second: float
    output_tokens_per_second: float
    goodput: float | None
    ttft: Figures | None
    tpot: Figures | None
    itl: Figures | None
    e2e: Figures | None


def parse_slo(text: str) -> dict[str, float]:
    """Limits in seconds from `ttft=200ms,itl=50ms`.

    Raises:
        ConfigError: a name or time is not known.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.match(part)
        if match is None or match[1] not in LIMITS or match[2].count(".") > 1 or match[2] == ".":
            raise ConfigError(
                f"The limit {part.strip()!r} cannot be read: write NAME=TIME with NAME one of "
                f"{', '.join(LIMITS)} and TIME like 200ms or 1.5s."
            )
        if match[1] in limits:
            raise ConfigError(f"The limit {match[1]!r} is given twice.")
        limits[match[1]] = float(match[2]) / (1e3 if match[3] == "ms" else 1)
    return limits


def keeps(sample: Sample, limits: dict[str, float]) -> bool:
    """Whether a completed request kept its limits; for `itl` its longest gap counts."""
    measured = {
        "ttft": sample.ttft,
        "tpot": sample.tpot or 0.0,
        "itl": max(sample.itl, default=0.0),
        "e2e": sample.e2e,
    }
    return all(measured[name] <= limit for name, limit in limits.items())


def summarise(
    samples: Sequence[Sample],
    seconds: float,
    *,
    limits: dict[str, float] | None = None,
    exact: bool = True,
) -> Summary:
    """The figures of a run.

    Args:
        seconds: its duration.
        limits: of `parse_slo`.
        exact: requests were to ignore EOS, so that their lengths are known.
    """
    good = [one for one in samples if one.failure is None]
    output_tokens = sum(one.output_tokens for one in good)
    return Summary(
        seconds=seconds,
        requests=len(samples),
        completed=len(good),
        failures=dict(Counter(one.failure for one in samples if one.failure is not None)),
        wrong_length=sum(one.output_tokens != one.output_len for one in good) if exact else 0,
        late=sum(one.sent - one.due > LATE for one in samples),
        prompt_tokens=sum(one.prompt_tokens for one in good),
        output_tokens=output_tokens,
        counted_by=dict(Counter(one.counted_by for one in good if one.counted_by is not None)),
        requests_per_second=len(good) / seconds,
        output_tokens_per_second=output_tokens / seconds,
        goodput=sum(keeps(one, limits) for one in good) / seconds if limits else None,
        ttft=Figures.of([one.ttft for one in good]),
        tpot=Figures.of([one.tpot for one in good if one.tpot is not None]),
        itl=Figures.of([gap for one in good for gap in one.itl]),
        e2e=Figures.of([one.e2e for one in good]),
    )
