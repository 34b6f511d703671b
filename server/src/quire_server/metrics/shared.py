"""Where several API processes count together.

prometheus_client looks for the place once, when it is imported: it has to stand before the processes start.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Let processes that are spawned meanwhile count into one place, which is empty now and gone afterwards.

    For whoever starts the API processes. Counts of a process that has ended stay in the sum.
    """
    before = os.environ.get(VARIABLE)
    directory = tempfile.mkdtemp(prefix="quire-metrics-")
    os.environ[VARIABLE] = directory
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        shutil.rmtree(directory, ignore_errors=True)
