"""`Kernels`: one object per engine that holds every compute operation.

Knows how it was asked for (`KernelsNeed`) and constructed (`KernelsInit`); the operations
themselves live in one file per family and are joined here.
"""

from __future__ import annotations

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops.fusion import FusionOps
from quire.ops.linear import LinearOps
from quire.ops.logprobs import LogprobOps
from quire.ops.masks import MaskOps
from quire.ops.pointwise import PointwiseOps
from quire.ops.quantized import QuantizedOps
from quire.ops.sampling import SamplingOps
from quire.ops.slots import SlotOps


class Kernels(
    PointwiseOps,
    LinearOps,
    QuantizedOps,
    LogprobOps,
    SlotOps,
    SamplingOps,
    MaskOps,
    FusionOps,
):
    """The operations in plain PyTorch, on any device; the contract that kernels plugins subclass.

    Must hold, for every override:
        * It equals this class within the tolerances of `quire.testing.kernels`.
        * A row of the result depends on its own row of the input only: NaN or Inf stay where they are.
        * Inputs are not written to, and may be strided views.
        * No rows in, no rows out.
        * What a `pack_*` method was given may be freed once it has returned.
    """

    @classmethod
    def reject(cls, need: KernelsNeed) -> str | None:
        """The reason these kernels cannot serve `need`, or None. Must not allocate.

        The reference itself refuses a deterministic need: BLAS sums a row's products in another order for
        another number of rows. A subclass that holds it overrides this, and passes
        `quire.testing.batch_invariance`.
        """
        if need.deterministic:
            return "is not deterministic: a product's rounding varies with the number of rows"
        return None

    def __init__(self, init: KernelsInit) -> None:
        self.init = init
