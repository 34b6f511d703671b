"""The quantization contract: from a file format's tensors to linear layers.

A quantization plugin reads its format from the checkpoint's headers, before memory is taken;
decides per module by the tensors that are present; decodes them into the one normalised form
below; and asks the kernels to pack and multiply. It owns no device code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from quire.contracts.base import DeviceSpec, Need

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from quire.ops import Kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec(DeviceSpec):
    """Description of a quantization plugin; `target` is a `Quantization` subclass.

    Attributes:
        matches: values of the checkpoint's `quant_method` that it reads.
    """

    matches: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        DeviceSpec.__post_init__(self)
        object.__setattr__(self, "matches", frozenset(self.matches))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationNeed(Need):
    """What a checkpoint asks of a quantization plugin.

    Attributes:
        config: the checkpoint's own quantization settings (`quantization_config` of config.json).
    """

    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor as the checkpoint's headers describe it, before anything is read.

    Attributes:
        dtype: safetensors dtype, e.g. "BF16", "I32".
        shape: full shape.
        file: file name it is in, for messages.
        name: what the checkpoint calls it, where the model calls it something else; empty if both agree.
    """

    dtype: str
    shape: tuple[int, ...]
    file: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous range [start, stop) of an axis that is `full` long on disk: this worker's shard."""

    start: int
    stop: int
    full: int

    @property
    def size(self) -> int:
        """Elements in the span."""
        return self.stop - self.start

    @property
    def is_full(self) -> bool:
        """True if nothing is cut off."""
        return self.start == 0 and self.stop == self.full

    @classmethod
    def whole(cls, size: int) -> Span:
        """The span of an axis that is not sharded."""
        return cls(0, size, size)


@dataclass(frozen=True, slots=True)
class LinearPart:
    """One checkpoint module inside a (possibly fused) projection.

    Attributes:
        name: its module path in the checkpoint, e.g. "model.layers.0.self_attn.q_proj".
        out: its output features on this worker.
    """

    name: str
    out: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """A linear layer as the model asks for it.

    Attributes:
        name: module path in the engine, e.g. "model.layers.0.self_attn.qkv_proj".
        parts: the checkpoint modules it is fused from, in output order; one if not fused.
        inp: input features on this worker (sharded for style "row").
        bias: whether the architecture has a bias. A checkpoint may carry one all the same. In style
            "row" the bias is added by the worker whose `inp` starts at 0 alone.
        style: "column" shards outputs, "row" shards inputs (and sums over workers), "replicated" neither.
    """

    name: str
    parts: tuple[LinearPart, ...]
    inp: Span
    bias: bool = False
    style: Literal["column", "row", "replicated"] = "replicated"

    @property
    def out_features(self) -> int:
        """Output features on this worker, all parts together."""
        return sum(part.out.size for part in self.parts)

    def run(self, start: int, stop: int) -> LinearSpec:
        """The same layer restricted to parts [start, stop): for formats that fuse only some parts."""
        return replace(self, parts=self.parts[start:stop])


@dataclass(slots=True)
class Weight:
    """A checkpoint tensor that a layer wants, and where it goes. The loader does the rest.

    Attributes:
        name: tensor name in the checkpoint (after the model's renames).
        shape: its full shape on disk; a different one is an error that names file and tensor.
        target: tensor it is copied into (dtype conversion included, on its device); has the shape of `take`.
        fill: called with what was read, in the file's dtype and the shape of `take` and on the target's
            device, instead of copying it into `target`: for a format that quantizes what it loads, so that
            it is never held whole. It must not keep what it is given.
        take: per axis the span this worker reads.
        required: an absent optional weight leaves `target` as it is.
        loaded: set by `store`, which the loader calls.
        dtypes: safetensors dtypes that may be converted into `target`; the default is any float.
        parameters: the model's parameters it stands for, on this worker; None for one per element read.
    """

    name: str
    shape: tuple[int, ...]
    target: torch.Tensor
    take: tuple[Span, ...]
    fill: Callable[[torch.Tensor], None] | None = None
    required: bool = True
    loaded: bool = False
    dtypes: frozenset[str] = frozenset({"F64", "F32", "F16", "BF16"})
    parameters: int | None = None

    def store(self, part: torch.Tensor) -> None:
        """Put what was read where it belongs."""
        # As it is: a copy between devices would convert first, on the host.
        part = part.to(self.target.device)
        if self.fill is None:
            self.target.copy_(part)
        else:
            self.fill(part)
        self.loaded = True


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedWeight:
    """The normalised form every weight format is decoded into: `w = scale * (code - zero)`.

    Attributes:
        codes: `[K, N]` uint8 (int8 or float8_e4m3fn when `zeros` is None and `bits` is 8), one code per
            element, K inputs and N outputs, rows in the file's order. Perhaps a transposed view.
        bits: significant bits of a code: 2, 3, 4 or 8.
        scales: `[G, N]` float.
        zeros: `[G, N]` integer or float zero points; None for symmetric codes already centred.
        group_index: `[K]` int32, the group of each row; None if row k is in group `k // (K // G)`.
            Groups then need not be of equal size, and one may have no row: a worker's shard cuts through
            them.
        permutation: `[K]` int64, an order of the rows in which groups are contiguous; None if they are.
        activation: how activations are quantized on the fly; None for none. "fp8_static" has one scale for
            all tokens, measured when the checkpoint was made.
        input_scale: `[]` fp32, that scale: what activations are divided by; None for every other scheme.
        bias: `[N]` float or None.
    """

    codes: torch.Tensor
    bits: int
    scales: torch.Tensor
    zeros: torch.Tensor | None = None
    group_index: torch.Tensor | None = None
    permutation: torch.Tensor | None = None
    activation: Literal["int8_per_token", "fp8_per_token", "fp8_static"] | None = None
    input_scale: torch.Tensor | None = None
    bias: torch.Tensor | None = None


class LinearMethod(ABC):
    """How one run of a linear layer's parts stores its weights and multiplies.

    Called in this order: `create_weights`, (the loader fills the targets), `finish`, then
    `apply` for every step.
    """

    @abstractmethod
    def create_weights(self) -> Sequence[Weight]:
        """Allocate on the device and declare what is to be loaded where."""

    @abstractmethod
    def finish(self) -> None:
        """Repack once all targets are loaded (normalised form -> kernels); drop what is no longer needed."""

    @abstractmethod
    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included."""

    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of weight memory held (after `finish`)."""

    def packed(self) -> object | None:
        """What the kernels' `pack_*` returned in `finish`, if `apply` is their product with it alone.

        None, the default, otherwise: the layer it is in is then not fused.
        """
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationInit:
    """What a quantization is opened with.

    Attributes:
        need: the need it did not reject.
        headers: tensor name -> header of the whole checkpoint (after the model's renames).
        kernels: packs and multiplies.
        device: torch device string weights are created on.
        options: its validated options model, or None.
    """

    need: QuantizationNeed
    headers: Mapping[str, TensorHeader]
    kernels: Kernels
    device: str
    options: BaseModel | None = None

    def stored_name(self, module: str, suffixes: Iterable[str]) -> str:
        """What the checkpoint calls a module, by which its settings (patterns, names) speak of it.

        Args:
            module: a part's name.
            suffixes: of tensors it may be stored as; the first there is tells. Without any, both names agree.
        """
        for suffix in suffixes:
            header = self.headers.get(f"{module}.{suffix}")
            if header is not None:
                return header.name.removesuffix(f".{suffix}") or module
        return module


class Quantization(ABC):
    """A weight format, opened on one checkpoint."""

    @classmethod
    def reject(cls, need: QuantizationNeed) -> str | None:
        """The reason these settings cannot be served, or None. Must not allocate."""
        return None

    def __init__(self, init: QuantizationInit) -> None:
        """Validate headers and settings; raise `CheckpointError` before memory is taken."""
        self.init = init

    @abstractmethod
    def linear(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        """Methods for `spec`: one for all parts, or one per run of parts, in order, each part once."""

    def tied_head(self, spec: LinearSpec) -> LinearMethod | None:
        """A method for a language-model head that has the embedding's weights; None, the default, keeps them.

        Its one required weight is filled from the embedding's table, after loading; `finish` follows.
        """
        return None
