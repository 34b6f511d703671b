"""A linear projection whose storage and arithmetic belong to its quantization."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire.contracts import LinearMethod, LinearSpec, ProjectionParts, Weight
from quire.layers.layer import Layer
from quire.layers.parallel import ParallelGroup


class Linear(Layer):
    """`[..., K] -> [..., N]` of this worker, possibly fused from several checkpoint modules.

    Style "row" sums over the group; "column" leaves outputs sharded.
    """

    def __init__(self, spec: LinearSpec, methods: Sequence[LinearMethod], parallel: ParallelGroup) -> None:
        super().__init__()
        self.spec = spec
        self.methods = tuple(methods)
        self._reduce = parallel.all_reduce if spec.style == "row" and parallel.size > 1 else None
        self._weights = [weight for method in self.methods for weight in method.create_weights()]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included."""
        if len(self.methods) == 1:
            out = self.methods[0].apply(x)
        else:
            out = torch.cat([method.apply(x) for method in self.methods], dim=-1)
        return out if self._reduce is None else self._reduce(out)

    def parts(self) -> ProjectionParts | None:
        """What kernels need to fuse it, once it is packed; None if a method is more than their product."""
        packed = tuple(method.packed() for method in self.methods)
        if None in packed:
            return None
        return ProjectionParts(spec=self.spec, packed=packed, all_reduce=self._reduce)

    def weights(self) -> Sequence[Weight]:
        return self._weights

    def finish(self) -> None:
        self._weights = []
        for method in self.methods:
            method.finish()

    def nbytes(self) -> int:
        return sum(method.nbytes() for method in self.methods)

    def extra_repr(self) -> str:
        return f"{self.spec.name}: {self.spec.inp.size} -> {self.spec.out_features}, {self.spec.style}"
