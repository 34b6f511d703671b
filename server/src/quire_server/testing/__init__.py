"""For authors of front ends: an engine that answers at once, from rules a test can predict, and a server."""

from quire_server.testing.fake_engine import BOS, EOS, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine
from quire_server.testing.live import hang_up, live, wait_for

__all__ = ["BOS", "EOS", "MAX_MODEL_LEN", "VOCAB_SIZE", "FakeEngine", "hang_up", "live", "wait_for"]
