"""`GptqModule`: one linear layer as GPTQ's tools store it, `w = scale * (code - zero)` by groups of inputs.

Tensors of a module with K inputs, N outputs, G groups and b bits, words being little-endian streams:
`qweight` I32 `[K * b / 32, N]` packed along K, `qzeros` I32 `[G, N * b / 32]` packed along N, `scales`
`[G, N]`, and `g_idx` I32 `[K]`, the group of each input. Knows this layout; no layers and no kernels.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

from quire.contracts import LinearPart, QuantizedWeight, Span, TensorHeader
from quire.errors import CheckpointError
from quire.layers import StoredModule, StoredTensor
from quire.ops.bits import WORD_BITS, covering_words, unpack_fields
from quire.ops.groups import covering_groups, rows_by_group
from quire_quant_gptq.settings import BITS, ModuleSettings

_WORDS = frozenset({"I32"})


class GptqModule(StoredModule):
    """Checked against the headers when it is made."""

    def __init__(
        self,
        part: LinearPart,
        inp: Span,
        headers: Mapping[str, TensorHeader],
        settings: ModuleSettings,
        stored_zeros: str,
    ) -> None:
        """See `StoredModule`.

        Args:
            settings: the module's own.
            stored_zeros: see `GptqSettings`.

        Raises:
            CheckpointError: a tensor is missing, or has a shape or dtype that the settings do not give.
        """
        super().__init__(part, inp, headers)
        self.bits = settings.bits
        self.group_size = inp.full if settings.group_size == -1 else settings.group_size
        self._stored_zeros = stored_zeros
        self._rows, self._skip_rows = covering_words(inp, self.bits)  # words of qweight's streams
        self._columns, self._skip_columns = covering_words(part.out, self.bits)  # of qzeros'
        self._groups = -(-inp.full // self.group_size)
        self._check_sizes(settings)
        self.check_headers()

    @property
    def kind(self) -> Hashable:
        return self.bits, self.group_size

    def tensors(self) -> Sequence[StoredTensor]:
        out, inp = self.part.out, self.inp
        groups = Span.whole(self._groups)  # all of them: only g_idx tells which a worker's inputs are in
        return [
            StoredTensor(
                suffix="qweight",
                shape=(self._rows.full, out.full),
                take=(self._rows, out),
                dtype=torch.int32,
                dtypes=_WORDS,
            ),
            StoredTensor(
                suffix="qzeros",
                shape=(groups.full, self._columns.full),
                take=(groups, self._columns),
                dtype=torch.int32,
                dtypes=_WORDS,
            ),
            StoredTensor(suffix="scales", shape=(groups.full, out.full), take=(groups, out)),
            StoredTensor(
                suffix="g_idx",
                shape=(inp.full,),
                take=(Span.whole(inp.full),),
                dtype=torch.int32,
                dtypes=_WORDS,
                required=False,
            ),
        ]

    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        codes = unpack_fields(raw["qweight"], self.bits, self.inp.size, skip_bits=self._skip_rows)
        zeros, scales = self._zeros(raw["qzeros"]), raw["scales"]
        index = self._group_index(raw.get("g_idx"))
        order = None
        if index is None:
            groups, index = covering_groups(self.inp, self.group_size)
            held = slice(groups.start, groups.stop)
            zeros, scales = zeros[held], scales[held]
            index = None if index is None else index.to(codes.device)
        else:
            order = rows_by_group(index)
        return QuantizedWeight(
            codes=codes,
            bits=self.bits,
            scales=scales,
            zeros=zeros,
            group_index=index,
            permutation=order,
        )

    def _zeros(self, words: torch.Tensor) -> torch.Tensor:
        """`[G, N]` int32."""
        bits, modulus = self.bits, 1 << self.bits
        whole_words = self._stored_zeros == "word-ones" and WORD_BITS % bits == 0
        if whole_words:
            ones = sum(1 << at for at in range(0, WORD_BITS, bits))
            words = words + ones  # wraps around, as the subtraction did
        fields = unpack_fields(words, bits, self.part.out.size, dim=1, skip_bits=self._skip_columns)
        zeros = fields.to(torch.int32)
        return zeros if whole_words or self._stored_zeros == "z" else (zeros + 1) % modulus

    def _group_index(self, g_idx: torch.Tensor | None) -> torch.Tensor | None:
        """This worker's groups, `[inp.size]` int32; None if inputs are grouped as they come."""
        if g_idx is None:
            return None
        natural = torch.arange(self.inp.full, dtype=torch.int32, device=g_idx.device) // self.group_size
        # Zeros throughout are what some tools leave where there is no act-order.
        if torch.equal(g_idx, natural) or not bool(g_idx.any()):
            return None
        wrong = (g_idx < 0) | (g_idx >= self._groups)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise CheckpointError(
                f"{self.where('g_idx')} puts input {at} into group {int(g_idx[at])}, "
                f"expected 0 to {self._groups - 1}. Fetch the file again, or quantize the model again."
            )
        return g_idx[self.inp.start : self.inp.stop]

    def _check_sizes(self, settings: ModuleSettings) -> None:
        """Bits and group size against the shapes they show in, before shapes are compared one by one."""
        qweight, scales = self.header("qweight"), self.header("scales")
        if qweight is not None and qweight.shape != (self._rows.full, self.part.out.full):
            shown = [
                bits
                for bits in BITS
                if qweight.shape == (covering_words(self.inp, bits)[0].full, self.part.out.full)
            ]
            if shown:
                raise CheckpointError(
                    f"{self.where('qweight')} has shape {list(qweight.shape)}, which is {shown[0]} bits for "
                    f"{self.inp.full} inputs; the settings say {self.bits} bits, expected "
                    f"{[self._rows.full, self.part.out.full]}. Correct bits (or dynamic) in "
                    "quantization_config."
                )
        if scales is not None and len(scales.shape) == 2 and scales.shape[0] != self._groups:
            raise CheckpointError(
                f"{self.where('scales')} has {scales.shape[0]} groups; group_size {settings.group_size} and "
                f"{self.inp.full} inputs make {self._groups}, expected shape "
                f"{[self._groups, self.part.out.full]}. Correct group_size (or dynamic) in "
                "quantization_config."
            )
