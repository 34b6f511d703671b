"""Prometheus metrics."""

from quire_server.metrics.metrics import ServerMetrics
from quire_server.metrics.names import METRIC_NAMES

__all__ = ["METRIC_NAMES", "ServerMetrics"]
