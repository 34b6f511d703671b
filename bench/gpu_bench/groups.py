"""Which parts there are, which share a process, and what each group of parts needs to have open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gpu_bench.bench import Bench

ENGINE_PARTS = ("decode", "idle", "prefill", "workload")
PARTS = ("limits", "attention", "wna16", *ENGINE_PARTS, "transformers")

Part = Callable[[Bench], None]


@dataclass(frozen=True, slots=True)
class Group:
    """Parts that run in one process, one after the other.

    Attributes:
        model: whose shape they use, "" if none in particular.
        parts: their names.
        seconds: after which the process is ended, whatever it does.
    """

    model: str
    parts: tuple[str, ...]
    seconds: float

    def soft_seconds(self, part: str) -> float:
        """Time for one part by its own look at the clock: most of the group's goes to `decode`."""
        share = {"decode": 0.45, "idle": 0.1, "prefill": 0.1, "workload": 0.2, "transformers": 0.85}
        return self.seconds * share.get(part, 0.7)


def groups(parts: tuple[str, ...], toy: bool) -> list[Group]:
    """What to run for these parts, together under eight minutes."""
    if toy:
        found = [Group("", (part,), 60) for part in ("limits", "attention", "wna16")]
        found += [Group("toy", ENGINE_PARTS, 60), Group("toy", ("transformers",), 60)]
    else:
        found = [
            Group("", ("limits",), 40),
            Group("", ("attention",), 70),
            Group("", ("wna16",), 40),
            Group("8b", ENGINE_PARTS, 145),
            Group("1b", ENGINE_PARTS, 95),
            Group("1b", ("transformers",), 85),
        ]
    chosen = [
        Group(one.model, tuple(part for part in one.parts if part in parts or part == "limits"), one.seconds)
        for one in found
    ]
    return [one for one in chosen if one.parts]


@contextmanager
def runners(group: Group, bench: Bench) -> Iterator[dict[str, Part]]:
    """The group's parts, with what they need open; heavy imports and engines come here."""
    from gpu_bench import attention, decode, limits, products, serving, transformers_part
    from gpu_bench.engine import opened
    from gpu_bench.shapes import MODELS

    if group.parts[0] in ENGINE_PARTS:
        shape = MODELS[group.model]
        with opened(shape, bench.device, bench.toy) as llm:
            yield {
                "decode": lambda bench: decode.run(bench, llm, shape),
                "idle": lambda bench: decode.run_idle(bench, llm, shape),
                "prefill": lambda bench: serving.run_prefill(bench, llm, shape),
                "workload": lambda bench: serving.run_workload(bench, llm, shape),
            }
        return
    yield {
        "limits": limits.run,
        "attention": attention.run,
        "wna16": products.run,
        "transformers": lambda bench: transformers_part.run(bench, MODELS[group.model]),
    }
