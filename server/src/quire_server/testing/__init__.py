"""For authors of front ends: an engine that answers at once, from rules a test can predict."""

from quire_server.testing.fake_engine import BOS, EOS, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine
from quire_server.testing.instant_engine import InstantEngine

__all__ = ["BOS", "EOS", "MAX_MODEL_LEN", "VOCAB_SIZE", "FakeEngine", "InstantEngine"]
