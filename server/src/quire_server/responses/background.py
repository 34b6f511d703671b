"""Responses that are made while nobody waits for them.

Knows the store and the engine's generations; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging

from quire_server.errors import ApiError, failed
from quire_server.responses.record import Record
from quire_server.responses.store import Store
from quire_server.service import Generation

logger = logging.getLogger(__name__)


async def begin(record: Record, generation: Generation, store: Store) -> None:
    """Store a response and let it run on.

    Raises:
        ApiError: 429, the store has no room; the generation is aborted.
    """
    task = asyncio.create_task(_follow(record, generation, store))

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await generation.aclose()
        if not record.ended:  # the task was cancelled before its first line ran
            record.end("cancelled")

    try:
        store.put(record, stop)
    except ApiError:
        await stop()
        raise


async def _follow(record: Record, generation: Generation, store: Store) -> None:
    try:
        async for _, output in generation:
            record.add(output)
    except ApiError as error:
        record.fail(error)
    except asyncio.CancelledError:
        record.end("cancelled")
        raise
    except Exception:
        logger.exception("A response in the background failed")
        record.fail(failed("The server failed while it made the response."))
    finally:
        record.usage = generation.usage
        record.output.end(record.item_status)
        store.grown(record)
