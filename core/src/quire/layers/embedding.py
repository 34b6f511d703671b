"""From token ids to vectors, and from vectors to logits: the two ends of a language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from quire.contracts import LinearMethod, Span, Weight
from quire.layers.layer import Fusible, Layer
from quire.layers.linear import Linear
from quire.layers.parallel import ParallelGroup
from quire.ops.linear import PackedLinear

if TYPE_CHECKING:
    from quire.ops import Kernels


class Embedding(Layer):
    """Token embedding, its rows shared out over the group.

    Attributes:
        table: `[V, H]`, this worker's rows.
        rows: which rows they are.
    """

    def __init__(
        self,
        name: str,
        vocab_size: int,
        hidden_size: int,
        *,
        kernels: Kernels,
        parallel: ParallelGroup,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.rows = parallel.shard_vocab(vocab_size)
        self.table = torch.empty(self.rows.size, hidden_size, device=device, dtype=dtype)
        self._kernels = kernels
        self._parallel = parallel
        self._weights = [
            Weight(
                name=f"{name}.weight",
                shape=(vocab_size, hidden_size),
                target=self.table,
                take=(self.rows, Span.whole(hidden_size)),
            )
        ]

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 -> `[T, H]`."""
        if self.rows.is_full:
            return self._kernels.embedding(token_ids, self.table)
        # A worker without the token's row adds zeros to the sum.
        elsewhere = (token_ids < self.rows.start) | (token_ids >= self.rows.stop)
        x = self._kernels.embedding((token_ids - self.rows.start).masked_fill(elsewhere, 0), self.table)
        return self._parallel.all_reduce(x.masked_fill(elsewhere[:, None], 0))

    def weights(self) -> Sequence[Weight]:
        return self._weights

    def finish(self) -> None:
        self._weights = []

    def nbytes(self) -> int:
        return self.table.nbytes


class LMHead(Layer, Fusible):
    """Hidden states to logits over the whole vocabulary, on every worker.

    The head's rows are shared out as the embedding's are. Exactly one of `projection` (weights of
    its own) and `tied_to` (the embedding's) is given; with the latter perhaps a `method` that stores
    these weights in another form for the head.
    """

    def __init__(
        self,
        name: str,
        vocab_size: int,
        *,
        kernels: Kernels,
        parallel: ParallelGroup,
        projection: Linear | None = None,
        tied_to: Embedding | None = None,
        method: LinearMethod | None = None,
    ) -> None:
        super().__init__()
        assert (projection is None) != (tied_to is None)
        self.vocab_size = vocab_size
        self.projection = projection
        # Held out of the module tree: the embedding is a layer of the model already.
        self._table = None if tied_to is None else tied_to.table
        self._method = method
        # Allocated here, as all other weights are, but filled from the table: the loader never sees them.
        self._derived = [] if method is None else list(method.create_weights())
        self._packed: PackedLinear | None = None
        self._head: PackedLinear | None = None  # plain weights, wherever they come from
        self._kernels = kernels
        self._parallel = parallel
        self._weights = [] if self._table is None else [_redundant(name, vocab_size, self._table)]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, H] -> [R, V]`."""
        if self._head is not None:
            logits = self._kernels.head(hidden, self._head)
        elif self.projection is not None:
            logits = self.projection(hidden)
        else:
            assert self._method is not None
            logits = self._method.apply(hidden)
        if self._parallel.size == 1:
            return logits
        missing = self._parallel.vocab_share(self.vocab_size) - logits.shape[-1]
        return self._parallel.all_gather(F.pad(logits, (0, missing)))[..., : self.vocab_size]

    def weights(self) -> Sequence[Weight]:
        return self._weights

    def finish(self) -> None:
        self._weights = []
        if self._table is not None and self._method is not None:
            for weight in self._derived:
                if weight.required:  # not a bias that a checkpoint happens to carry
                    weight.store(self._table)
            self._derived = []
            self._method.finish()
        elif self._table is not None:
            self._packed = self._head = self._kernels.pack_linear(self._table, None)

    def fuse(self) -> None:
        """Multiply plain weights of its own by the kernels' `head` too."""
        parts = None if self.projection is None else self.projection.parts()
        if parts is not None and len(parts.packed) == 1 and isinstance(parts.packed[0], PackedLinear):
            self._head = parts.packed[0]

    def nbytes(self) -> int:
        if self._method is not None:
            return self._method.nbytes()
        if self._packed is None or self._packed.weight is self._table:
            return 0
        return self._packed.nbytes


def _redundant(name: str, vocab_size: int, table: torch.Tensor) -> Weight:
    """A tied head's own tensor: some checkpoints carry it. It is checked, and nothing of it is read."""
    hidden_size = table.shape[1]
    return Weight(
        name=f"{name}.weight",
        shape=(vocab_size, hidden_size),
        target=table[:0],
        take=(Span(0, 0, vocab_size), Span.whole(hidden_size)),
        required=False,
    )
