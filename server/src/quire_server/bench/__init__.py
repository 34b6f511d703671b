"""Load on an OpenAI-compatible server, and what it does to latency. Knows nothing of Quire's own server."""

from quire_server.bench.address import Address
from quire_server.bench.figures import Figures, Summary, summarise
from quire_server.bench.load import Run, run_load
from quire_server.bench.settings import LoadSettings
from quire_server.bench.workload import Lengths

__all__ = ["Address", "Figures", "Lengths", "LoadSettings", "Run", "Summary", "run_load", "summarise"]
