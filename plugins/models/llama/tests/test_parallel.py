"""The family on several workers: the same logits as on one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quire.layers import ParallelGroup
from quire.testing.model import assert_logits_equal, save_random_checkpoint
from quire.testing.runner import PagedRunner
from quire.weights.checkpoint import Checkpoint
from quire_models_llama.model import LlamaFamily


class Rendezvous:
    """Where the workers' threads exchange tensors."""

    def __init__(self, size: int) -> None:
        self.tensors: list[Any] = [None] * size
        self.barrier = threading.Barrier(size, timeout=30)


class ThreadGroup(ParallelGroup):
    """A parallel group whose workers are threads of one process."""

    def __init__(self, rank: int, size: int, meeting: Rendezvous) -> None:
        super().__init__(rank, size)
        object.__setattr__(self, "_meeting", meeting)

    def _join(self, x: torch.Tensor, how: Callable[[list[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
        meeting: Rendezvous = self.__dict__["_meeting"]
        meeting.tensors[self.rank] = x
        meeting.barrier.wait()
        out = how(meeting.tensors)
        meeting.barrier.wait()  # nobody overwrites what another still reads
        return out

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return self._join(x, lambda parts: torch.stack(parts).sum(0))

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return self._join(x, lambda parts: torch.cat(parts, dim=-1))


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen2-tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3-window": {
        "model_type": "qwen3",
        "head_dim": 16,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
    },
}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_workers_agree_with_transformers(tmp_path: Path, name: str, size: int) -> None:
    """Two KV heads: on four workers each is replicated. 203 tokens: shares are unequal."""
    from quire_attn_torch.backend import TorchAttention

    reference = save_random_checkpoint(
        tmp_path,
        {
            **CONFIGS[name],
            "vocab_size": 203,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
        },
    )
    ids = reference.prompts["prompt18"]
    meeting = Rendezvous(size)
    results: list[Any] = [None] * size

    def work(rank: int) -> None:
        try:
            runner = PagedRunner(
                LlamaFamily,
                json.loads((tmp_path / "config.json").read_text()),
                Checkpoint(tmp_path),
                attention_class=TorchAttention,
                parallel=ThreadGroup(rank, size, meeting),
            )
            runner.add("a", ids)
            results[rank] = torch.cat([runner.run({"a": n})["a"] for n in (11, 6, 1)])
        except BaseException:
            meeting.barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for logits in results:
        assert logits is not None, "a worker failed"
        assert_logits_equal(logits, reference.logits(ids))
