"""A model driven by hand over a paged cache, without scheduler, slots or engine.

Knows how a batch is laid out and nothing of policy: the test says who computes how many tokens. Blocks
are handed out in shuffled order, and those that leave a sliding window are taken away, so that
a backend that leans on contiguous or lasting blocks is found out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionNeed,
    CacheSpec,
    KernelsInit,
    KernelsNeed,
    Model,
    Quantization,
    QuantizationInit,
    QuantizationNeed,
)
from quire.layers import AttentionGroups, Build, ParallelGroup, Step, Unquantized
from quire.ops import Kernels
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import initialise_dummy, load, renamed_headers

_GARBAGE = 1e3
"""What KV memory holds before it is written: finite, and loud when it leaks into an output."""


@dataclass(slots=True)
class _Sequence:
    token_ids: list[int]
    computed: int = 0
    blocks: list[list[int]] = field(default_factory=list)  # per group; 0 where a block was taken away


class RejectedError(Exception):
    """The attention backend does not serve the model that was to be run; the message is its reason."""


class PagedRunner:
    """Builds and loads a model, then computes logits step by step.

    Example:
        runner = PagedRunner(LlamaFamily, config, checkpoint, attention_class=TorchAttention)
        runner.add("a", [1, 2, 3, 4, 5])
        runner.run({"a": 3})            # chunked prefill: [3, V]
        logits = runner.run({"a": 2})["a"]
        runner.append("a", int(logits[-1].argmax()))

    Attributes:
        model: the loaded model.
        build: the build it came from.
        kv: per attention layer its KV tensors by name.
    """

    def __init__(
        self,
        model_class: type[Model],
        config: Mapping[str, Any],
        checkpoint: Checkpoint | None,
        *,
        attention_class: type[AttentionBackend],
        quantization_class: type[Quantization] = Unquantized,
        kernels_class: type[Kernels] = Kernels,
        parallel: ParallelGroup | None = None,
        block_size: int = 4,
        num_blocks: int = 128,
        max_model_len: int = 128,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        deterministic: bool = False,
        seed: int = 0,
    ) -> None:
        """Build, load (random weights if `checkpoint` is None) and repack a model; allocate its cache."""
        self._attention_class = attention_class
        self._block_size = block_size
        self._max_model_len = max_model_len
        self._max_tokens = num_blocks * block_size
        self._device = device
        self._deterministic = deterministic
        self._dtype_name = str(dtype).removeprefix("torch.")
        device_type = torch.device(device).type

        kernels = kernels_class(
            KernelsInit(
                need=KernelsNeed(device=device_type, dtype=self._dtype_name, deterministic=deterministic),
                device=device,
            )
        )
        quantization = quantization_class(
            QuantizationInit(
                need=QuantizationNeed(
                    device=device_type,
                    dtype=self._dtype_name,
                    deterministic=deterministic,
                    config=config.get("quantization_config") or {},
                ),
                headers={} if checkpoint is None else renamed_headers(checkpoint, model_class.mapping),
                kernels=kernels,
                device=device,
            )
        )
        self._groups = AttentionGroups()
        self._backends: list[AttentionBackend] = []
        self.build = Build(
            config=config,
            kernels=kernels,
            quantization=quantization,
            attention=self._attention,
            mapping=model_class.mapping,
            max_model_len=max_model_len,
            parallel=parallel,
            device=device,
            dtype=dtype,
        )
        self.model = model_class(config, self.build)
        if checkpoint is None:
            initialise_dummy(self.model.weights(), seed)
        else:
            load(self.model.weights(), checkpoint, model_class.mapping)
        self.model.finish()

        self.kv = [
            {
                name: torch.full(tensor.shape, _GARBAGE, dtype=getattr(torch, tensor.dtype), device=device)
                for name, tensor in layer.backend.kv_layout(num_blocks).tensors.items()
            }
            for layer in self.build.attention_layers
        ]
        shuffle = random.Random(seed)
        # Block 0 is the null block.
        self._free = [
            shuffle.sample(range(1, num_blocks), num_blocks - 1) for _ in range(len(self._backends))
        ]
        self._sequences: dict[str, _Sequence] = {}

    def add(self, name: str, token_ids: Sequence[int]) -> None:
        """Begin a sequence; nothing is computed yet."""
        self._sequences[name] = _Sequence(list(token_ids), blocks=[[] for _ in self._free])

    def append(self, name: str, token_id: int) -> None:
        """Add one token to a sequence."""
        self._sequences[name].token_ids.append(token_id)

    def free(self, name: str) -> None:
        """End a sequence; its blocks go to whoever comes next."""
        sequence = self._sequences.pop(name)
        for free, blocks in zip(self._free, sequence.blocks, strict=True):
            free.extend(block for block in blocks if block)

    def remaining(self, name: str) -> int:
        """Tokens of a sequence that are not computed yet."""
        sequence = self._sequences[name]
        return len(sequence.token_ids) - sequence.computed

    @torch.inference_mode()
    def run(self, counts: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Compute the next tokens of some sequences in one step.

        Args:
            counts: sequence -> number of tokens, at least 1 and at most what remains.

        Returns:
            Per sequence the logits `[count, V]` of the tokens computed.
        """
        sequences = [self._sequences[name] for name in counts]
        tokens: list[int] = []
        positions: list[int] = []
        for sequence, count in zip(sequences, counts.values(), strict=True):
            assert 0 < count <= len(sequence.token_ids) - sequence.computed
            stop = sequence.computed + count
            tokens += sequence.token_ids[sequence.computed : stop]
            positions += range(sequence.computed, stop)
            for blocks, free in zip(sequence.blocks, self._free, strict=True):
                while len(blocks) * self._block_size < stop:
                    blocks.append(free.pop())
        query_lens = list(counts.values())
        position_ids = self._ints(positions, torch.int64)
        step = Step(
            metadata=[
                backend.plan(self._batch(group, sequences, query_lens, position_ids))
                for group, backend in enumerate(self._backends)
            ],
            kv=self.kv,
        )
        x = self.model.embed(self._ints(tokens, torch.int64))
        logits = self.model.logits(self.model.forward(x, position_ids, step))  # [T, V]
        for sequence, count in zip(sequences, query_lens, strict=True):
            sequence.computed += count
            self._leave_window(sequence)
        return dict(zip(counts, torch.split(logits, query_lens), strict=True))

    def _attention(
        self, cache: CacheSpec, num_q_heads: int, soft_cap: float | None
    ) -> tuple[int, AttentionBackend]:
        group = self._groups.add(cache, num_q_heads, soft_cap)
        if group == len(self._backends):
            need = AttentionNeed(
                device=torch.device(self._device).type,
                dtype=self._dtype_name,
                deterministic=self._deterministic,
                cache=cache,
                num_q_heads=num_q_heads,
                block_size=self._block_size,
                soft_cap=soft_cap,
            )
            reason = self._attention_class.reject(need)
            if reason is not None:
                raise RejectedError(reason)
            self._backends.append(
                self._attention_class(
                    AttentionInit(
                        need=need,
                        device=self._device,
                        max_num_seqs=32,
                        max_num_batched_tokens=self._max_tokens,
                        max_model_len=self._max_model_len,
                    )
                )
            )
        return group, self._backends[group]

    def _batch(
        self,
        group: int,
        sequences: Sequence[_Sequence],
        query_lens: list[int],
        positions: torch.Tensor,
    ) -> AttentionBatch:
        size = self._block_size
        seq_lens = [s.computed + n for s, n in zip(sequences, query_lens, strict=True)]
        tables = [s.blocks[group] for s in sequences]
        width = max(map(len, tables))
        slot_mapping = [
            s.blocks[group][position // size] * size + position % size
            for s, stop in zip(sequences, seq_lens, strict=True)
            for position in range(s.computed, stop)
        ]
        query_start = [0]
        for count in query_lens:
            query_start.append(query_start[-1] + count)
        return AttentionBatch(
            query_start=self._ints(query_start, torch.int32),
            seq_lens=self._ints(seq_lens, torch.int32),
            positions=positions,
            block_table=self._ints([t + [0] * (width - len(t)) for t in tables], torch.int32),
            slot_mapping=self._ints(slot_mapping, torch.int64),
            max_query_len=max(query_lens),
            max_seq_len=max(seq_lens),
            query_lens_host=query_lens,
            seq_lens_host=seq_lens,
        )

    def _leave_window(self, sequence: _Sequence) -> None:
        """Replace blocks no later query can see by the null block."""
        for group, facts in enumerate(self._groups.groups):
            if facts.cache.window is None:
                continue
            blocks = sequence.blocks[group]
            # The next query, at `computed`, sees keys from here on.
            first_key = max(0, sequence.computed - facts.cache.window + 1)
            for index in range(first_key // self._block_size):
                if blocks[index]:
                    self._free[group].insert(0, blocks[index])
                    blocks[index] = 0

    def _ints(self, values: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self._device)
