"""For authors of front ends: an engine that answers at once, and a real server around an app."""

from quire_server.testing.fake_engine import BOS, EOS, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine
from quire_server.testing.impatient import hang_up, wait_for
from quire_server.testing.live_server import LiveServer, read_all

__all__ = [
    "BOS",
    "EOS",
    "MAX_MODEL_LEN",
    "VOCAB_SIZE",
    "FakeEngine",
    "LiveServer",
    "hang_up",
    "read_all",
    "wait_for",
]
