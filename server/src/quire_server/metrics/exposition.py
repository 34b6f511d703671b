"""What `/metrics` shows: this server's counters (the sum over its processes) and the engine's own figures.

Engine-wide figures come from the engine's last report in whichever process is asked, so they are not summed.
vLLM's names show the same figures again; nothing is counted twice for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from quire import DraftStats
from quire_server.metrics.metrics import ServerMetrics
from quire_server.metrics.names import METRICS, VLLM
from quire_server.service.engine import Engine

_SharedCollector: Any = MultiProcessCollector  # the library leaves it untyped
_LABELS = {"vllm:request_success_total": {"reason": "finished_reason"}}


class Exposition(Collector):
    """Everything that one scrape shows."""

    def __init__(self, metrics: ServerMetrics, engine: Engine, model: str, *, vllm: bool) -> None:
        """Collect for a server.

        Args:
            metrics: of this process.
            engine: whose figures are shown.
            model: served name, for `model_name`.
            vllm: show vLLM's names too.
        """
        self._metrics = metrics
        self._engine = engine
        self._model = model
        self._vllm = vllm

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """All metrics, first under the server's own names."""
        found = {metric.name: metric for metric in (*self._counted(), *engine_metrics(self._engine))}
        yield from found.values()
        if self._vllm:
            for alias, name in VLLM.items():
                yield self._renamed(alias, name, found[name.removesuffix("_total")])

    def _counted(self) -> Iterator[Metric]:
        self._metrics.flush()
        shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        source: Any = _SharedCollector(None) if shared else self._metrics.registry
        for metric in source.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric

    def _renamed(self, alias: str, name: str, metric: Metric) -> Metric:
        old, new = name.removesuffix("_total"), alias.removesuffix("_total")
        copy = Metric(new, f"As {name}: {metric.documentation}", metric.type)
        labels = _LABELS.get(alias, {})
        for sample in metric.samples:
            renamed = {labels.get(key, key): value for key, value in sample.labels.items()}
            copy.samples.append(
                Sample(new + sample.name[len(old) :], {"model_name": self._model, **renamed}, sample.value)
            )
        return copy


def engine_metrics(engine: Engine) -> Iterator[Metric]:
    """The engine's figures."""
    info, stats = engine.info, engine.stats
    scheduler = stats.scheduler
    yield _gauge("quire_engine_ready", float(engine.health == "ready"))
    yield _gauge("quire_num_requests_running", scheduler.num_running)
    yield _gauge("quire_num_requests_waiting", scheduler.num_waiting)
    usage = max((pool.used / pool.total for pool in scheduler.kv if pool.total), default=0.0)
    yield _gauge("quire_kv_cache_usage_ratio", usage)
    blocks = GaugeMetricFamily("quire_kv_blocks", METRICS["quire_kv_blocks"][1], labels=("group", "state"))
    for group, pool in enumerate(scheduler.kv):
        for state, count in (("free", pool.free), ("used", pool.used), ("cached", pool.cached)):
            blocks.add_metric((str(group), state), count)
    yield blocks
    name = "quire_cache_config_info"
    cache = GaugeMetricFamily(name, METRICS[name][1], labels=("block_size", "num_gpu_blocks"))
    cache.add_metric((str(info.block_size), str(info.num_blocks)), 1)
    yield cache
    yield _counter("quire_prefix_cache_queries_total", scheduler.prefix_queries)
    yield _counter("quire_prefix_cache_hits_total", scheduler.prefix_hits)
    yield _counter("quire_grammar_mask_seconds_total", stats.grammars.mask_seconds)
    yield _counter("quire_grammar_masks_total", stats.grammars.num_masks)
    yield _counter("quire_forced_tokens_total", scheduler.num_forced_tokens)
    yield _counter("quire_thinking_ended_total", stats.num_thinking_ended)
    yield _counter("quire_preemptions_total", scheduler.num_preemptions)
    yield from _speculation(scheduler.drafts)
    yield _counter("quire_prompt_tokens_total", stats.prompt_tokens)
    yield _counter("quire_generation_tokens_total", stats.generation_tokens)
    buckets: list[tuple[str, float]] = []
    total = 0
    bounds = (*map(str, stats.step_buckets), "+Inf")
    for bound, count in zip(bounds, stats.step_histogram, strict=True):
        total += count
        buckets.append((bound, total))
    yield HistogramMetricFamily(
        "quire_step_seconds", METRICS["quire_step_seconds"][1], buckets, stats.step_seconds
    )


def _speculation(drafts: DraftStats) -> Iterator[Metric]:
    """What came of drafts; zeros where nobody speculates."""
    yield _counter("quire_spec_decode_drafts_total", drafts.num_drafts)
    yield _counter("quire_spec_decode_draft_tokens_total", drafts.num_draft_tokens)
    yield _counter("quire_spec_decode_accepted_tokens_total", drafts.num_accepted_tokens)
    yield _counter("quire_spec_decode_emitted_tokens_total", drafts.num_emitted_tokens)
    name = "quire_spec_decode_accepted_tokens_per_pos_total"
    positions = CounterMetricFamily(name, METRICS[name][1], labels=("position",))
    for position, count in enumerate(drafts.accepted_per_position):
        positions.add_metric((str(position),), count)
    yield positions
    ratio = drafts.num_accepted_tokens / drafts.num_draft_tokens if drafts.num_draft_tokens else 0.0
    yield _gauge("quire_spec_decode_acceptance_ratio", ratio)


def _gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, METRICS[name][1], value=value)


def _counter(name: str, value: float) -> Metric:
    return CounterMetricFamily(name, METRICS[name][1], value=value)
