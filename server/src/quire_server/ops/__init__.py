"""For those who run a server: health, readiness, version, metrics, and a live view of the engine."""
