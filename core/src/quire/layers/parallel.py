"""Which part of every tensor is this worker's: the arithmetic of tensor parallelism.

Knows ranks and spans; knows nothing of processes. A group of one talks to nobody; an executor
of several workers hands layers a subclass whose collectives do communicate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quire.contracts import Span
from quire.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ParallelGroup:
    """A tensor-parallel group as one of its workers sees it.

    Attributes:
        rank: this worker, 0 .. size - 1.
        size: number of workers.
    """

    rank: int = 0
    size: int = 1

    def shard(self, full: int, what: str) -> Span:
        """This worker's equal share of an axis.

        Raises:
            ConfigError: `full` does not divide by the group's size; `what` names the axis.
        """
        if full % self.size:
            raise ConfigError(
                f"tensor_parallel_size {self.size} does not divide {what} ({full}). "
                f"Choose a divisor of {full}."
            )
        each = full // self.size
        return Span(self.rank * each, (self.rank + 1) * each, full)

    def shard_heads(self, num_heads: int, head_dim: int, what: str) -> Span:
        """This worker's share of `num_heads * head_dim` features, cut between heads.

        A group larger than the number of heads replicates each head on `size / num_heads` workers,
        neighbours in rank, so that a worker's query heads find their KV head at home.

        Raises:
            ConfigError: heads and workers do not divide either way.
        """
        full = num_heads * head_dim
        if num_heads % self.size == 0:
            return self.shard(full, what)
        if self.size % num_heads:
            raise ConfigError(
                f"tensor_parallel_size {self.size} fits {what} ({num_heads}) neither as a divisor nor as a "
                "multiple. Choose one of those."
            )
        head = self.rank * num_heads // self.size
        return Span(head * head_dim, (head + 1) * head_dim, full)

    def shard_vocab(self, vocab_size: int) -> Span:
        """This worker's rows of the vocabulary: `ceil(vocab_size / size)`, fewer on the last workers."""
        each = self.vocab_share(vocab_size)
        return Span(min(self.rank * each, vocab_size), min((self.rank + 1) * each, vocab_size), vocab_size)

    def vocab_share(self, vocab_size: int) -> int:
        """Rows of the vocabulary on a worker that has a full share."""
        return -(-vocab_size // self.size)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of every worker's `x`, on every worker."""
        return self._alone(x)

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every worker's `x` (equal shapes) joined along the last axis in order of rank."""
        return self._alone(x)

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        if self.size != 1:
            raise EngineError(
                f"{type(self).__name__} has {self.size} workers but no way to communicate: "
                "the executor must supply a group whose collectives do."
            )
        return x
