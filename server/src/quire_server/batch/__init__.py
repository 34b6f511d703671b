"""Files of requests in OpenAI's batch format, worked through, against any server."""

from quire_server.batch.run import BatchSettings, Counts, run_batch

__all__ = ["BatchSettings", "Counts", "run_batch"]
