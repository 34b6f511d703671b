"""Measures what a step of full size takes besides weights and KV."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quire.contracts import SampleRows
from quire.layers import Step
from quire.plan import SlotStart
from quire.runtime.batching import BatchBuilder
from quire.runtime.config import WorkerConfig
from quire.runtime.graphs import graph_sizes
from quire.runtime.kv_cache import KVCache
from quire.runtime.meter import peak_bytes
from quire.runtime.worker import Worker
from quire.sampling_params import SamplingParams

# A full-size forward takes seconds on a CPU, and what it holds grows in proportion to its rows (the
# layers' temporaries) or is far smaller (metadata): so a CPU measures fewer rows and scales up.
_CPU_ROWS = 256


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """Bytes on one worker.

    Attributes:
        weights: held by the model's parameters, after repacking.
        activations: peak of a step of `max_num_batched_tokens` rows that samples for every slot and draft.
            With a draft model, what that keeps besides its share of the requests' blocks is in it.
        graphs: what captured decode steps will keep besides, by an estimate; 0 where none are captured.
        kv_bytes_per_block: one block more in every KV group, over all layers of all models.
        device_free, device_total: of the device, with the model loaded.
        measured_rows: rows of the forward pass that was measured.
    """

    weights: int
    activations: int
    graphs: int
    kv_bytes_per_block: int
    device_free: int
    device_total: int
    measured_rows: int


def profile(worker: Worker) -> MemoryProfile:
    """Run a step of made-up tokens and see what it holds. Leaves the worker without KV memory."""
    config = worker.config
    rows = min(config.max_num_batched_tokens, config.max_model_len)
    if config.device == "cpu":
        rows = min(rows, _CPU_ROWS)
    of_forward, of_sampling = _measure(worker, rows)
    activations = max(of_forward * max(config.max_num_batched_tokens, rows) // rows, of_sampling)
    if worker.draft is not None:
        activations += worker.draft.spare_bytes(config.block_size)
    graphs = 0
    if worker.can_capture:
        of_seats = of_sampling * config.max_num_seqs // config.max_sampled_rows
        graphs = graphs_bytes(config, of_forward / rows, of_seats, len(worker.backends))
        if worker.draft is not None and worker.draft.captures:
            graphs *= 2  # as if the other model were as large
    worker.device.empty_cache()
    memory = worker.device.memory()
    return MemoryProfile(
        weights=worker.weight_bytes,
        activations=activations,
        graphs=graphs,
        kv_bytes_per_block=worker.bytes_per_block,
        device_free=memory.free,
        device_total=memory.total,
        measured_rows=rows,
    )


def graphs_bytes(config: WorkerConfig, per_row: float, of_sampling: int, groups: int) -> int:
    """An estimate of what captured decode steps will hold.

    The temporaries of the largest, which the others share, and what each reads its batch from. What the
    driver keeps for a graph is not in it: only capturing shows that.

    Args:
        config: the worker's.
        per_row: bytes of a forward pass, for each of its rows.
        of_sampling: bytes of sampling for all seats.
        groups: KV groups.
    """
    width = -(-config.max_model_len // config.block_size)
    # 32 bits: block table, length; 64: token id, position, slot of the cache.
    inputs = sum(graph_sizes(config.max_num_seqs)) * (groups * (4 * width + 4 + 8) + 8 + 8)
    return int(config.max_num_seqs * per_row) + of_sampling + inputs


@torch.inference_mode()
def _measure(worker: Worker, rows: int) -> tuple[int, int]:
    """Peak bytes of a forward pass of `rows` tokens, and of sampling for every slot and draft."""
    config = worker.config
    blocks = -(-rows // config.block_size)
    cache = KVCache(worker.backends, worker.group_of_layer, blocks + 1, worker.device.name)
    hidden: list[torch.Tensor] = []

    def forward() -> None:
        groups = len(worker.backends)
        batch, _ = BatchBuilder(worker.slots, worker.device.name, num_groups=groups).build([0], [rows])
        metadata = tuple(
            backend.plan(group) for backend, group in zip(worker.backends, batch.groups, strict=True)
        )
        tap = None if worker.head is None else worker.head.tap()
        step = Step(metadata, cache.layers, tap)
        hidden.append(worker.model.forward(worker.model.embed(batch.token_ids), batch.positions, step))

    def sample() -> None:
        count = config.max_sampled_rows
        logits = worker.model.logits(hidden[0][:1].expand(count, -1))
        slots = SampleRows(slots=[0] * count, positions=[1] * count)
        worker.sampler.draw(worker.sampler.process(logits, slots), slots)

    params = SamplingParams(temperature=1.0, top_p=0.9)
    worker.slots.seat(
        SlotStart(
            slot=0,
            generation=0,
            request_id="profile",
            params=params,
            seed=0,
            token_ids=[0] * rows,
            num_prompt=rows,
            num_computed=0,
            block_ids=tuple(list(range(1, blocks + 1)) for _ in worker.backends),
        )
    )
    worker.sampler.add(0, params, 0, [0], [])
    try:
        return peak_bytes(worker.device.name, forward), peak_bytes(worker.device.name, sample)
    finally:
        worker.sampler.remove(0)
        worker.slots.leave(0)
