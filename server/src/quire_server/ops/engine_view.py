"""The engine at one moment as JSON, for the playground's live view and for people with curl."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

from quire_server.service import Service


def engine_view(service: Service) -> dict[str, Any]:
    """What is known of the engine.

    Counters count since the engine's start; a page takes rates from two views and `time`, in seconds of a
    monotonic clock. Latencies are those of the last requests of the process that answers.
    """
    info, stats = service.info, service.engine.stats
    scheduler = stats.scheduler
    return {
        "time": time.monotonic(),
        "health": service.engine.health,
        "draining": service.draining,
        "model": {
            "name": service.model_names[0],
            "aliases": service.model_names[1:],
            "architecture": info.architecture,
            "dtype": info.dtype,
            "device": info.device,
            "num_parameters": info.num_parameters,
            "vocab_size": info.vocab_size,
            "max_model_len": info.max_model_len,
            "max_num_seqs": info.max_num_seqs,
            "max_logprobs": info.max_logprobs,
            "weights_bytes": info.weights_bytes,
            "sampling_defaults": dict(info.sampling_defaults),
        },
        "requests": {
            "running": scheduler.num_running,
            "waiting": scheduler.num_waiting,
            "preemptions": scheduler.num_preemptions,
        },
        "kv": {
            "block_size": info.block_size,
            "num_blocks": info.num_blocks,
            "bytes": info.kv_bytes,
            "groups": [
                {"free": pool.free, "used": pool.used, "cached": pool.cached, "total": pool.total}
                for pool in scheduler.kv
            ],
        },
        "prefix_cache": {
            "enabled": info.enable_prefix_caching,
            "queries": scheduler.prefix_queries,
            "hits": scheduler.prefix_hits,
        },
        "tokens": {"prompt": stats.prompt_tokens, "generation": stats.generation_tokens},
        "steps": {"count": stats.steps, "seconds": stats.step_seconds},
        "latency": {
            "ttft": percentiles(service.metrics.recent_ttft),
            "itl": percentiles(service.metrics.recent_itl),
        },
        "plugins": _plugins(service),
    }


def percentiles(values: Collection[float]) -> dict[str, float] | None:
    """Median, 90th and 99th percentile (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return {f"p{rank}": ordered[math.ceil(rank / 100 * len(ordered)) - 1] for rank in (50, 90, 99)}


def _plugins(service: Service) -> list[dict[str, Any]]:
    plan = service.info.plugins
    return [
        {
            "role": one.role,
            "chosen": one.chosen,
            "version": plan.plugins[one.role].version if one.role in plan.plugins else None,
            "reason": one.reason,
            "rejected": [{"name": name, "reason": reason} for name, reason in one.rejected],
        }
        for one in plan.explanations
    ]
