"""Prometheus metrics."""

from quire_server.metrics.metrics import ServerMetrics

__all__ = ["ServerMetrics"]
