"""The three ways in which AWQ stores a module: its tensors, a worker's part of them, how they decode."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence

import torch

from quire.contracts import LinearPart, QuantizedWeight, Span, TensorHeader
from quire.errors import CheckpointError
from quire.layers import StoredModule, StoredTensor
from quire.ops.bits import covering_words, unpack_fields
from quire.ops.groups import covering_groups
from quire_quant_awq.decode import BITS, ROWS, STRIDE, WORD, columns, interleaved, zeros_of_products

_CENTRE = 1 << (BITS - 1)
"""The zero point of symmetric weights, where the file leaves it out."""

GROUP_SIZES = (32, 64, 128)
"""What tools write."""

_ZERO_WORDS = {64: 2, 32: 4}
"""gemv and gemv_fast round the words that zeros take up to a multiple of this; of 1 at other group sizes."""


class Layout(StoredModule):
    """A module of 4-bit weights with group scales and zero points."""

    def __init__(
        self,
        part: LinearPart,
        inp: Span,
        headers: Mapping[str, TensorHeader],
        *,
        group_size: int,
        zero_point: bool,
    ) -> None:
        """Check sizes against each other.

        Args:
            part: the module, and this worker's outputs of it.
            inp: this worker's inputs.
            headers: of the whole checkpoint.
            group_size: inputs that share a scale; -1 for all.
            zero_point: whether zero points must be in the file; otherwise they may be.

        Raises:
            CheckpointError: the groups, or the words, do not divide the module's sizes.
        """
        super().__init__(part, inp, headers)
        size = inp.full if group_size == -1 else group_size
        if size == 0 or inp.full % size:
            raise CheckpointError(
                f"{self.where('qweight')}: its {inp.full} inputs do not divide into groups of {group_size} "
                "(group_size of quantization_config), expected a divisor of them."
            )
        for axis, full, multiple in (
            ("outputs", part.out.full, WORD),
            ("inputs", inp.full, self.inputs_multiple),
        ):
            if full % multiple:
                raise CheckpointError(
                    f"{self.where('qweight')}: the {self.version} layout has {axis} in multiples of "
                    f"{multiple}, and this module has {full}."
                )
        self._group_size = size
        self._zero_point = zero_point
        self._groups, self._index = covering_groups(inp, size)

    version: str
    """Its name in the settings."""

    inputs_multiple = 1
    """What divides the number of inputs."""

    @property
    def kind(self) -> Hashable:
        return self.version, self._group_size, self.header(self.zeros) is not None

    @property
    def zeros(self) -> str:
        """Suffix of the zero points' tensor."""
        return "qzeros"

    def fits(self, *suffixes: str) -> bool:
        """Whether the checkpoint's tensors are of this layout and group size.

        Args:
            suffixes: of those that are looked at; weights and scales unless given.
        """
        return all(
            (header := self.header(tensor.suffix)) is not None
            and header.shape == tensor.shape
            and header.dtype in tensor.dtypes
            for tensor in self.tensors()
            if tensor.suffix in (suffixes or ("qweight", "scales"))
        )

    def decode(self, raw: Mapping[str, torch.Tensor]) -> QuantizedWeight:
        scales = self.scales(raw["scales"])
        if self.zeros in raw:
            zeros = self.zero_points(raw[self.zeros], scales)
        else:
            zeros = torch.full(scales.shape, _CENTRE, dtype=torch.uint8, device=scales.device)
        index = self._index
        return QuantizedWeight(
            codes=self.codes(raw["qweight"]),
            bits=BITS,
            scales=scales,
            zeros=zeros,
            group_index=None if index is None else index.to(scales.device),
        )

    @abstractmethod
    def codes(self, words: torch.Tensor) -> torch.Tensor:
        """`[K, N]` uint8 of this worker, from what was read of `qweight`."""

    @abstractmethod
    def scales(self, stored: torch.Tensor) -> torch.Tensor:
        """`[G, N]` fp32 of this worker."""

    @abstractmethod
    def zero_points(self, stored: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """`[G, N]` of this worker."""

    def _words_of_zeros(self) -> int:
        """Words that the zeros of one output take, padding included (gemv and gemv_fast)."""
        multiple = _ZERO_WORDS.get(self._group_size, 1)
        words = -(-self._groups.full // WORD)
        return -(-words // multiple) * multiple

    def _padded_groups(self) -> Span:
        return Span(self._groups.start, self._groups.stop, WORD * self._words_of_zeros())


class Gemm(Layout):
    """Packed along the outputs."""

    version = "gemm"

    def tensors(self) -> Sequence[StoredTensor]:
        out, groups = self.part.out, self._groups
        words, _ = covering_words(out, BITS)
        whole = frozenset({"I32"})
        return (
            StoredTensor(
                suffix="qweight",
                shape=(self.inp.full, words.full),
                take=(self.inp, words),
                dtype=torch.int32,
                dtypes=whole,
            ),
            StoredTensor(
                suffix="qzeros",
                shape=(groups.full, words.full),
                take=(groups, words),
                dtype=torch.int32,
                dtypes=whole,
                required=self._zero_point,
            ),
            StoredTensor(suffix="scales", shape=(groups.full, out.full), take=(groups, out)),
        )

    def codes(self, words: torch.Tensor) -> torch.Tensor:
        # The order within a word is known for whole words: what is not this worker's is cut afterwards.
        before = self.part.out.start % WORD
        return columns(words)[:, before : before + self.part.out.size]

    def scales(self, stored: torch.Tensor) -> torch.Tensor:
        return stored

    def zero_points(self, stored: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return self.codes(stored)


class Gemv(Layout):
    """Packed along the inputs, in their natural order."""

    version = "gemv"
    inputs_multiple = WORD

    def tensors(self) -> Sequence[StoredTensor]:
        out, groups = self.part.out, self._padded_groups()
        words, _ = covering_words(self.inp, BITS)
        zero_words, _ = covering_words(groups, BITS)
        whole = frozenset({"I32"})
        return (
            StoredTensor(
                suffix="qweight",
                shape=(out.full, words.full),
                take=(out, words),
                dtype=torch.int32,
                dtypes=whole,
            ),
            StoredTensor(
                suffix="qzeros",
                shape=(out.full, zero_words.full),
                take=(out, zero_words),
                dtype=torch.int32,
                dtypes=whole,
                required=self._zero_point,
            ),
            StoredTensor(suffix="scales", shape=(out.full, groups.full), take=(out, groups)),
        )

    def codes(self, words: torch.Tensor) -> torch.Tensor:
        return _along_rows(words, self.inp)

    def scales(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.t().contiguous()

    def zero_points(self, stored: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return _along_rows(stored, self._padded_groups()).contiguous()


class GemvFast(Layout):
    """Words of 16 bits, four outputs interleaved; in place of zero points their products with the scales."""

    version = "gemv_fast"
    inputs_multiple = STRIDE

    @property
    def zeros(self) -> str:
        # llm-awq's own name for it.
        return "qzeros" if self.header("scaled_zeros") is None else "scaled_zeros"

    def tensors(self) -> Sequence[StoredTensor]:
        out, inp, groups = self.part.out, self.inp, self._padded_groups()
        rows = Span(out.start // ROWS, -(-out.stop // ROWS), out.full // ROWS)
        stretches = Span(inp.start // STRIDE * STRIDE, -(-inp.stop // STRIDE) * STRIDE, inp.full)
        return (
            StoredTensor(
                suffix="qweight",
                shape=(rows.full, inp.full),
                take=(rows, stretches),
                dtype=torch.int16,
                dtypes=frozenset({"I16"}),
            ),
            StoredTensor(
                suffix=self.zeros,
                shape=(groups.full, out.full),
                take=(groups, out),
                required=self._zero_point,
            ),
            StoredTensor(suffix="scales", shape=(groups.full, out.full), take=(groups, out)),
        )

    def codes(self, words: torch.Tensor) -> torch.Tensor:
        out, inp = self.part.out, self.inp
        rows, stretches = out.start % ROWS, inp.start % STRIDE
        return interleaved(words)[rows : rows + out.size, stretches : stretches + inp.size].t()

    def scales(self, stored: torch.Tensor) -> torch.Tensor:
        return stored

    def zero_points(self, stored: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return zeros_of_products(stored, scales)


def _along_rows(words: torch.Tensor, fields: Span) -> torch.Tensor:
    """`[N, W]` words packed along W -> `[fields, N]` uint8."""
    _, skip = covering_words(fields, BITS)
    return unpack_fields(words, BITS, fields.size, dim=1, skip_bits=skip).t()


LAYOUTS: Mapping[str, type[Layout]] = {layout.version: layout for layout in (Gemm, Gemv, GemvFast)}
