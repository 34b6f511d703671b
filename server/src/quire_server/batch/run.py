"""A batch: the input's lines, the requests in flight, the output's lines. Nothing is done twice or lost.

What the output settles already is left alone, failures included, so a run can be stopped and started again
with the same arguments. Results are written as they come, not in the input's order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from quire.errors import ConfigError, EngineError
from quire_server.batch.lines import BadLine, Job, complaint, read_input, read_result
from quire_server.batch.output import Output
from quire_server.batch.sender import Sender, ServerGoneError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """How to work through a batch.

    Attributes:
        concurrency: most requests in flight.
        max_retries: attempts after the first for a server that is busy.
        backoff: seconds before the first retry; it doubles.
    """

    concurrency: int = 32
    max_retries: int = 10
    backoff: float = 1.0


@dataclass(slots=True)
class Counts:
    """Lines of a batch.

    Attributes:
        total: lines of the input that are not empty.
        earlier: settled by earlier runs.
        failed: with an error or a status other than 2xx, earlier ones included.
        done: settled, earlier ones included.
    """

    total: int = 0
    earlier: int = 0
    failed: int = 0
    done: int = 0


async def run_batch(
    source: Path,
    target: Path,
    client: httpx.AsyncClient,
    settings: BatchSettings,
    on_progress: Callable[[Counts], object] = lambda counts: None,
) -> Counts:
    """Work through a batch.

    Args:
        source: the input; read twice, as it is counted first.
        target: the output; continued if it exists.
        client: its base URL is the server's, without `/v1`.
        on_progress: called after each line, and once before.

    Raises:
        ConfigError: a file cannot be used, or the output is another input's.
        EngineError: the server went away; what is written stays, and the same call goes on from there.
    """
    if source.resolve() == target.resolve():
        raise ConfigError(f"Input and output are the same file, {source}: give another --output.")
    total = _examine(source)
    with Output(target) as output:
        settled = set(output.done)
        counts = Counts(total, len(settled), sum(output.done.values()), len(settled))
        _check_same_batch(source, target, settled)
        on_progress(counts)
        todo = _unsettled(source, settled)

        def settle(line: bytes) -> None:
            output.write(line)
            result = read_result(line)
            assert result is not None
            counts.done += 1
            counts.failed += result.failed
            on_progress(counts)

        sender = Sender(client, settings.max_retries, settings.backoff)

        async def work() -> None:
            for item in todo:
                settle(complaint(item) if isinstance(item, BadLine) else await sender.send(item))

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(settings.concurrency):
                    tasks.create_task(work())
        except ExceptionGroup as group:
            first = group.exceptions[0]
            if not isinstance(first, ServerGoneError):
                raise first from None
            raise EngineError(
                f"The server at {client.base_url} cannot be reached ({first}). {counts.done} of "
                f"{counts.total} lines are done: run the same command again to go on."
            ) from None
    return counts


def _lines(source: Path) -> Iterator[bytes]:
    try:
        with source.open("rb") as file:
            yield from file
    except OSError as error:
        raise ConfigError(f"The input {source} cannot be read: {error.strerror}.") from None


def _examine(source: Path) -> int:
    return sum(1 for line in _lines(source) if line.strip())


def _key(item: Job | BadLine) -> str | int:
    return item.custom_id if isinstance(item, Job) else item.line


def _check_same_batch(source: Path, target: Path, settled: set[str | int]) -> None:
    if not settled:
        return
    strange = settled - {_key(item) for item in read_input(_lines(source))}
    if strange:
        raise ConfigError(
            f"{target} has results that {source} does not ask for, {min(strange, key=str)!r} among them: "
            "it is another batch's. Give another --output."
        )


def _unsettled(source: Path, settled: set[str | int]) -> Iterator[Job | BadLine]:
    return (item for item in read_input(_lines(source)) if _key(item) not in settled)
