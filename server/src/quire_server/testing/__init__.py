"""For authors of front ends: an engine that answers at once, from rules a test can predict."""

from quire_server.testing.fake_engine import BOS, EOS, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine

__all__ = ["BOS", "EOS", "MAX_MODEL_LEN", "VOCAB_SIZE", "FakeEngine"]
