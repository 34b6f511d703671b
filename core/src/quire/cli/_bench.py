"""What the offline benchmarks share: a workload, percentiles, and their printing.

Knows token counts and seconds; knows no engine beyond its outputs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from quire.cli._render import to_json
from quire.errors import InvalidRequestError

__all__ = ["Item", "Percentiles", "make_workload", "report", "workload_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Item:
    """One request of a workload.

    Attributes:
        prompt_ids: prompt token ids.
        output_len: tokens to generate, end-of-text tokens notwithstanding.
    """

    prompt_ids: list[int]
    output_len: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Summary of times, in milliseconds. Percentiles by the nearest rank, so each was measured."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Percentiles | None:
        """None if there is nothing to summarise."""
        if not seconds:
            return None
        ordered = sorted(1e3 * value for value in seconds)

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return cls(sum(ordered) / len(ordered), rank(0.5), rank(0.9), rank(0.99), ordered[-1])


def workload_options(num_prompts: int, input_len: int, output_len: int) -> Callable[[Command], Command]:
    """Flags of a workload, with these defaults."""

    def add(command: Command) -> Command:
        count = click.IntRange(min=1)
        for option in reversed(
            [
                click.option("--num-prompts", type=count, default=num_prompts, show_default=True),
                click.option(
                    "--input-len", type=count, default=input_len, show_default=True, help="Prompt tokens."
                ),
                click.option(
                    "--output-len", type=count, default=output_len, show_default=True, help="Output tokens."
                ),
                click.option(
                    "--ragged",
                    is_flag=True,
                    help="Draw each length uniformly between a quarter of it and the whole.",
                ),
                click.option(
                    "--text",
                    type=click.Path(path_type=Path),
                    metavar="FILE",
                    help="Cut prompts from this text instead of drawing random token ids.",
                ),
                click.option("--workload-seed", type=int, default=0, show_default=True),
                click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True),
                click.option("--json", "as_json", is_flag=True, help="Print JSON."),
            ]
        ):
            command = option(command)
        return command

    return add


def make_workload(
    tokenizer: Any,
    *,
    num_prompts: int,
    input_len: int,
    output_len: int,
    ragged: bool,
    text: Path | None,
    workload_seed: int,
) -> list[Item]:
    """Requests that are the same for the same arguments; no two prompts share a prefix on purpose.

    Args:
        tokenizer: has `encode(text) -> ids` and `vocab_size`.

    Raises:
        InvalidRequestError: the text cannot be read or is shorter than a prompt.
    """
    draw = random.Random(workload_seed)
    source = None if text is None else _encode(tokenizer, text, input_len)

    def length(full: int) -> int:
        return draw.randint(max(1, full // 4), full) if ragged else full

    items = []
    for _ in range(num_prompts):
        size = length(input_len)
        if source is None:
            ids = [draw.randrange(tokenizer.vocab_size) for _ in range(size)]
        else:
            start = draw.randint(0, len(source) - size)
            ids = source[start : start + size]
        items.append(Item(ids, length(output_len)))
    return items


def _encode(tokenizer: Any, file: Path, at_least: int) -> list[int]:
    try:
        ids = list(tokenizer.encode(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"--text {file}: cannot be read: {error}", field="text") from None
    if len(ids) < at_least:
        raise InvalidRequestError(
            f"--text {file}: has {len(ids)} tokens, and --input-len asks for {at_least}", field="text"
        )
    return ids


def report(numbers: dict[str, float | int], times: dict[str, Percentiles | None], *, as_json: bool) -> None:
    """Print totals, and a table of times in milliseconds."""
    if as_json:
        click.echo(to_json({**numbers, "times_ms": times}))
        return
    width = max(len(name) for name in numbers)
    for name, number in numbers.items():
        text = f"{number:.2f}" if isinstance(number, float) else str(number)
        click.echo(f"{name.replace('_', ' ').ljust(width)}  {text:>12}")
    columns = ("mean", "p50", "p90", "p99", "max")
    click.echo("\n" + "ms".ljust(width) + "".join(f"{column:>12}" for column in columns))
    for name, summary in times.items():
        cells = "".join(
            f"{'-' if summary is None else format(getattr(summary, column), '.2f'):>12}" for column in columns
        )
        click.echo(f"{name.ljust(width)}{cells}")
