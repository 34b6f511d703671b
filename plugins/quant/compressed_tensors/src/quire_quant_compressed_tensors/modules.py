"""How each scheme stores a module: which tensors, which part of them is a worker's, how they decode.

Sources: the compressors `pack_quantized` and `naive_quantized` of compressed-tensors.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Hashable, Mapping, Sequence

import torch

from quire.contracts import LinearPart, QuantizedWeight, Span, TensorHeader
from quire.errors import CheckpointError
from quire.layers import StoredModule, StoredTensor
from quire.ops.bits import covering_words, unpack_fields
from quire.ops.groups import covering_groups, rows_by_group
from quire_quant_compressed_tensors.schemes import Scheme

_INTEGERS = frozenset({"I32"})
_INDICES = frozenset({"I32", "I64"})


class Packed(StoredModule):
    """`pack-quantized`: integers of 4 or 8 bits, shifted to be positive, packed along the inputs."""

    def __init__(
        self, part: LinearPart, inp: Span, headers: Mapping[str, TensorHeader], scheme: Scheme
    ) -> None:
        """See `StoredModule`.

        Raises:
            CheckpointError: a tensor is missing, or of another shape or dtype; the groups do not divide the
                inputs.
        """
        super().__init__(part, inp, headers)
        size = inp.full if scheme.group_size is None else scheme.group_size
        if size == 0 or inp.full % size:
            raise CheckpointError(
                f"{self.where('weight_packed')}: its {inp.full} inputs do not divide into groups of {size} "
                f"(config_groups.{scheme.group}.weights.group_size), expected a divisor of them."
            )
        self._scheme = scheme
        self._groups, self._index = covering_groups(inp, size)
        # Act-order: groups lie anywhere among the inputs, so a share of the inputs may need any of them.
        self._indexed = scheme.indexed or self.header("weight_g_idx") is not None
        if self._indexed:
            self._groups = Span.whole(self._groups.full)
        self.check_headers()

    @property
    def kind(self) -> Hashable:
        scheme = self._scheme
        return "packed", scheme.bits, scheme.group_size, scheme.symmetric, self._indexed

    def tensors(self) -> Sequence[StoredTensor]:
        scheme, out, inp, groups = self._scheme, self.part.out, self.inp, self._groups
        words, _ = covering_words(inp, scheme.bits)
        found = [
            StoredTensor(
                suffix="weight_packed",
                shape=(out.full, words.full),
                take=(out, words),
                dtype=torch.int32,
                dtypes=_INTEGERS,
            ),
            StoredTensor(suffix="weight_scale", shape=(out.full, groups.full), take=(out, groups)),
            StoredTensor(
                suffix="weight_shape", shape=(2,), take=(Span.whole(2),), dtype=torch.int64, dtypes=_INDICES
            ),
        ]
        if not scheme.symmetric:
            rows, _ = covering_words(out, scheme.bits)
            found.append(
                StoredTensor(
                    suffix="weight_zero_point",
                    shape=(rows.full, groups.full),
                    take=(rows, groups),
                    dtype=torch.int32,
                    dtypes=_INTEGERS,
                )
            )
        if self._indexed:
            found.append(
                StoredTensor(
                    suffix="weight_g_idx", shape=(inp.full,), take=(inp,), dtype=torch.int32, dtypes=_INDICES
                )
            )
        return found

    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        scheme = self._scheme
        self._check_shape(raw["weight_shape"])
        _, skip = covering_words(self.inp, scheme.bits)
        codes = unpack_fields(
            raw["weight_packed"], scheme.bits, self.inp.size, dim=1, skip_bits=skip
        )  # [N, K]
        scales = raw["weight_scale"].t().contiguous()  # [G, N]
        zeros: torch.Tensor | None
        if not scheme.symmetric:
            _, skip = covering_words(self.part.out, scheme.bits)
            zeros = unpack_fields(
                raw["weight_zero_point"], scheme.bits, self.part.out.size, dim=0, skip_bits=skip
            ).t()
            zeros = zeros.contiguous()  # [G, N]
        elif scheme.bits == 8:
            # Stored as q + 128: with the highest bit turned, the byte is q itself.
            codes, zeros = codes.bitwise_xor_(128).view(torch.int8), None
        else:
            zeros = torch.full(scales.shape, 1 << (scheme.bits - 1), dtype=torch.uint8, device=scales.device)
        index = self._index
        if self._indexed:
            index = self._group_index(raw["weight_g_idx"])
        return QuantizedWeight(
            codes=codes.t(),
            bits=scheme.bits,
            scales=scales,
            zeros=zeros,
            group_index=None if index is None else index.to(scales.device),
            permutation=None if index is None else rows_by_group(index.to(scales.device)),
        )

    def _group_index(self, stored: torch.Tensor) -> torch.Tensor | None:
        """`[K]` int32, counted from the first group.

        Raises:
            CheckpointError: an index names no group.
        """
        groups = self._groups.full
        size = self.inp.full // groups
        natural = torch.arange(self.inp.start, self.inp.stop, dtype=torch.int32, device=stored.device) // size
        # All -1 is how its writer says that groups are in order; made-up weights have made-up indices.
        if self.header("weight_g_idx") is None or bool((stored == -1).all()):
            stored = natural
        wrong = (stored < 0) | (stored >= groups)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise CheckpointError(
                f"{self.where('weight_g_idx')} has {int(stored[at])} at {self.inp.start + at}, "
                f"expected a group from 0 to {groups - 1}."
            )
        return None if self.inp.is_full and torch.equal(stored, natural) else stored

    def _check_shape(self, stored: torch.Tensor) -> None:
        expected = [self.part.out.full, self.inp.full]
        # Made-up weights have made-up shapes.
        if self.header("weight_shape") is not None and stored.tolist() != expected:
            raise CheckpointError(
                f"{self.where('weight_shape')} says {stored.tolist()}, expected {expected}."
            )


_ONE: Sequence[tuple[Span, ...]] = ((Span.whole(1),), (), (Span.whole(1), Span.whole(1)))
"""Forms of a scale that is one for all."""


class _Plain(StoredModule, ABC):
    """8-bit weights as they are, with one scale per output or one for all, and quantized activations."""

    def __init__(
        self, part: LinearPart, inp: Span, headers: Mapping[str, TensorHeader], scheme: Scheme
    ) -> None:
        """See `StoredModule`.

        Raises:
            CheckpointError: a tensor is missing, or of another shape or dtype.
        """
        super().__init__(part, inp, headers)
        self._scheme = scheme
        self.check_headers()

    @property
    def kind(self) -> Hashable:
        return self._scheme.kind, self._scheme.static

    def _scale(self) -> StoredTensor:
        """The weight's."""
        out = self.part.out
        forms = _ONE if self._scheme.per_tensor else ((out, Span.whole(1)), (out,))
        return self._in_either_form("weight_scale", forms)

    def _in_either_form(self, suffix: str, forms: Sequence[tuple[Span, ...]]) -> StoredTensor:
        """A scale, in whichever form of its shape the file has."""
        header = self.header(suffix)
        found = (
            []
            if header is None
            else [form for form in forms if tuple(span.full for span in form) == header.shape]
        )
        take = (found or forms)[0]
        return StoredTensor(suffix=suffix, shape=tuple(span.full for span in take), take=take)

    def _row_of_scales(self, stored: torch.Tensor) -> torch.Tensor:
        """`[1, N]` fp32."""
        return stored.reshape(1, -1).expand(1, self.part.out.size).contiguous()


class Int8(_Plain):
    """`int-quantized`."""

    def tensors(self) -> Sequence[StoredTensor]:
        take = (self.part.out, self.inp)
        shape = (self.part.out.full, self.inp.full)
        weight = StoredTensor(
            suffix="weight", shape=shape, take=take, dtype=torch.int8, dtypes=frozenset({"I8"})
        )
        return weight, self._scale()

    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        return QuantizedWeight(
            codes=raw["weight"].t(),
            bits=8,
            scales=self._row_of_scales(raw["weight_scale"]),
            activation="int8_per_token",
        )


class Fp8(_Plain):
    """`float-quantized`: weights in float8 e4m3, which is a code that stands for itself."""

    def tensors(self) -> Sequence[StoredTensor]:
        take = (self.part.out, self.inp)
        shape = (self.part.out.full, self.inp.full)
        weight = StoredTensor(
            suffix="weight",
            shape=shape,
            take=take,
            dtype=torch.float8_e4m3fn,
            dtypes=frozenset({"F8_E4M3"}),
        )
        scales = [self._scale()]
        if self._scheme.static:
            scales.append(self._in_either_form("input_scale", _ONE))
        return weight, *scales

    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        weight = raw["weight"]  # [N, K]
        # e4m3fn has no infinity; all ones below the sign is NaN.
        wrong = weight.view(torch.uint8).bitwise_and(0x7F) == 0x7F
        if bool(wrong.any()):
            at = wrong.nonzero()[0].tolist()
            raise CheckpointError(f"{self.where('weight')} holds nan at {at}, expected finite numbers.")
        return QuantizedWeight(
            codes=weight.t(),
            bits=8,
            scales=self._row_of_scales(raw["weight_scale"]),
            activation="fp8_static" if self._scheme.static else "fp8_per_token",
            input_scale=self._input_scale(raw["input_scale"]) if self._scheme.static else None,
        )

    def _input_scale(self, stored: torch.Tensor) -> torch.Tensor:
        """`[]` fp32.

        Raises:
            CheckpointError: nothing can be divided by it.
        """
        scale = stored.reshape(())
        if not bool(scale > 0):
            raise CheckpointError(
                f"{self.where('input_scale')} is {scale.item()}, expected a positive number. "
                "Fetch the file again, or quantize the model again."
            )
        return scale


MODULES: Mapping[str, type[Packed] | type[Int8] | type[Fp8]] = {"packed": Packed, "int8": Int8, "fp8": Fp8}
"""By a scheme's kind."""
