"""For authors of front ends: an engine that answers at once, a real server around an app, and the contracts
as test suites (which need pytest, and are imported only if asked for).
"""

from typing import TYPE_CHECKING, Any

from quire_server.testing.fake_engine import BOS, EOS, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine
from quire_server.testing.impatient import hang_up, wait_for
from quire_server.testing.live_server import LiveServer, read_all
from quire_server.testing.served import Served, app_of, serve

if TYPE_CHECKING:
    from quire_server.testing.route_suite import Example, RouteSuite, Target, refusals
    from quire_server.testing.tool_suite import ToolSuite

__all__ = [
    "BOS",
    "EOS",
    "MAX_MODEL_LEN",
    "VOCAB_SIZE",
    "Example",
    "FakeEngine",
    "LiveServer",
    "RouteSuite",
    "Served",
    "Target",
    "ToolSuite",
    "app_of",
    "hang_up",
    "read_all",
    "refusals",
    "serve",
    "wait_for",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from quire_server.testing import route_suite, tool_suite

        return getattr(tool_suite if name == "ToolSuite" else route_suite, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
