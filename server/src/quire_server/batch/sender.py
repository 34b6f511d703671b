"""One request of a batch against a server: sent, tried again while the server is busy, its answer as a line.

429 and 503 are tried again after the time that `Retry-After` names, else after 1, 2, 4 ... seconds, and so is
a connection that could not be made. Other answers, and connections that break while a request runs, are
final: the request itself may be what broke them.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from dataclasses import dataclass

import httpx

from quire_server.batch.lines import Job, failure, new_id, success_or_refusal

BUSY = (429, 503)
LONGEST_WAIT = 60.0
"""Seconds."""


class ServerGoneError(Exception):
    """No connection to the server can be made, however often it is tried."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends requests.

    Attributes:
        client: to the server, with its base URL.
        max_retries: attempts after the first.
        backoff: seconds before the first retry without `Retry-After`.
    """

    client: httpx.AsyncClient
    max_retries: int
    backoff: float = 1.0

    async def send(self, job: Job) -> bytes:
        """The result line of a request, good or bad.

        Raises:
            ServerGoneError: nothing can be said about the request, as no server is there.
        """
        name = new_id()
        for attempt in range(self.max_retries + 1):
            last = attempt == self.max_retries
            try:
                response = await self.client.post(
                    job.url.removeprefix("/"),
                    content=job.body,
                    headers={"Content-Type": "application/json", "X-Request-Id": name},
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if last:
                    raise ServerGoneError(str(error) or type(error).__name__) from error
                await asyncio.sleep(self._wait(attempt))
                continue
            except httpx.TimeoutException as error:
                return failure(job, name, "timeout", f"no answer in time ({type(error).__name__})")
            except httpx.HTTPError as error:
                return failure(job, name, "connection_error", str(error) or type(error).__name__)
            if response.status_code not in BUSY or last:
                break
            wait = retry_after(response.headers.get("retry-after"))
            await asyncio.sleep(self._wait(attempt) if wait is None else wait)
        request_id = response.headers.get("x-request-id", name)
        return success_or_refusal(job, name, response.status_code, request_id, response.content)

    def _wait(self, attempt: int) -> float:
        # Jitter: requests that were refused together should not come back together.
        return min(LONGEST_WAIT, self.backoff * 2.0**attempt) * random.uniform(0.5, 1.0)


def retry_after(value: str | None) -> float | None:
    """Seconds from a `Retry-After` header (RFC 9110, 10.2.3), at most `LONGEST_WAIT`; None without one."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        seconds = float(value)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(LONGEST_WAIT, max(0.0, seconds))
