"""The workloads: which requests each makes in a round, and the figures that are read off a run.

Greedy, whatever comes, exact token counts. Prompts are random token ids, so that nobody spends time on a
tokenizer; every round has other ids and the same lengths, so that no cache helps from round to round. Knows
requests and results; knows no peer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from harness.adapters.worker import Request

LOWEST_ID, HIGHEST_ID = 16, 30_999  # past any special token, inside every checkpoint's vocabulary


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that a workload gives.

    Attributes:
        name: key in records.
        label: how tables call it.
        unit: of the number.
        higher_is_better: of a rate; else it is a time.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured.

    Attributes:
        name: as on the command line.
        title: what it is, in a few words.
        figures: what it gives, in the order of tables.
    """

    name: str
    title: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer's process said of a run.

    Attributes:
        seconds: from handing over all requests to the last result.
        tokens: ids of each request.
        times: when each token came, in seconds since the start; of each request.
        measured: figures that the adapter itself knows.
    """

    seconds: float
    tokens: list[list[int]]
    times: list[list[float]]
    measured: dict[str, float]


class WrongCount(Exception):  # noqa: N818 - it is what happened
    """A peer gave more or fewer tokens than were asked for: its times compare with nothing."""


WORKLOADS = {
    one.name: one
    for one in (
        Workload(
            "single",
            "one stream, prompt 128, output 128",
            (
                Figure("decode_ms", "one stream, decode", "ms/token", False),
                Figure("ttft_ms", "one stream, time to first token (prompt 128)", "ms", False),
            ),
        ),
        Workload(
            "ragged",
            "32 requests at once, prompts 32 to 256, outputs 32 to 192",
            (Figure("output_tok_s", "32 ragged requests offline", "output tok/s", True),),
        ),
        Workload(
            "prefill",
            "one prompt of 1024",
            (Figure("prefill_tok_s", "prefill of 1024 tokens", "tok/s", True),),
        ),
        Workload(
            "prefix",
            "32 requests at once with the same 512 tokens and 32 of their own, output 32; cold cache",
            (Figure("requests_s", "32 requests sharing a 512-token prefix", "req/s", True),),
        ),
        Workload(
            "online",
            "streams over HTTP, Poisson arrivals, prompts 32 to 256, outputs 32 to 128",
            (
                Figure("ttft_p50_ms", "online, TTFT p50", "ms", False),
                Figure("ttft_p99_ms", "online, TTFT p99", "ms", False),
                Figure("itl_p50_ms", "online, ITL p50", "ms", False),
                Figure("itl_p99_ms", "online, ITL p99", "ms", False),
                Figure("online_tok_s", "online, output", "tok/s", True),
            ),
        ),
        Workload(
            "start",
            "from starting the process until a request could come",
            (Figure("start_s", "start to ready", "s", False),),
        ),
    )
}

OFFLINE = ("single", "ragged", "prefill", "prefix")
"""Those whose requests all come at once, to the peer's process."""


def make_requests(workload: str, round_: int) -> list[Request]:
    """The requests of an offline workload in that round; the same on every machine."""
    draw = random.Random(f"{workload}/{round_}")

    def ids(count: int) -> list[int]:
        return [draw.randint(LOWEST_ID, HIGHEST_ID) for _ in range(count)]

    if workload == "single":
        return [Request(ids(128), 128)]
    if workload == "ragged":
        lengths = random.Random("ragged lengths")
        pairs = [(lengths.randint(32, 256), lengths.randint(32, 192)) for _ in range(32)]
        return [Request(ids(prompt), new) for prompt, new in pairs]
    if workload == "prefill":
        return [Request(ids(1024), 1)]
    if workload == "prefix":
        prefix = ids(512)
        return [Request(prefix + ids(32), 32) for _ in range(32)]
    raise ValueError(f"{workload!r} is no offline workload; there are {', '.join(OFFLINE)}.")


def warm_up(workloads: Sequence[str]) -> list[list[Request]]:
    """Batches that touch the shapes of those workloads before anything is measured."""
    draw = random.Random("warm-up")

    def request(prompt: int, new: int) -> Request:
        return Request([draw.randint(LOWEST_ID, HIGHEST_ID) for _ in range(prompt)], new)

    batches = [[request(128, 8)]]
    if {"ragged", "prefix"} & set(workloads):
        batches.append([request(32 + 4 * number, 8) for number in range(32)])
    if {"prefill", "prefix"} & set(workloads):
        batches.append([request(1024, 2)])
    return batches


def figures(workload: str, requests: Sequence[Request], answer: Answer) -> dict[str, float]:
    """The figures of a run of an offline workload.

    Raises:
        WrongCount: a request got another number of tokens than it asked for.
    """
    wanted, got = [one.new for one in requests], [len(one) for one in answer.tokens]
    if wanted != got:
        raise WrongCount(f"{workload}: asked for {sum(wanted)} tokens, {sum(got)} came: {got}")
    if workload == "single":
        times = answer.times[0]
        decode = (times[-1] - times[0]) / (len(times) - 1)
        shown = {"decode_ms": 1e3 * decode, "ttft_ms": 1e3 * times[0]}
    elif workload == "ragged":
        shown = {"output_tok_s": sum(wanted) / answer.seconds}
    elif workload == "prefill":
        shown = {"prefill_tok_s": len(requests[0].prompt) / answer.seconds}
    else:
        shown = {"requests_s": len(requests) / answer.seconds}
    return shown | answer.measured
