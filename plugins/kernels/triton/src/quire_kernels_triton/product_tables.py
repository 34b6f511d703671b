"""Launch parameters of quantized products by bits and rows: the only place that has any.

**Not measured on a GPU.** The numbers are reasoned, for Hopper, from what the compiler makes of them there:

* Up to 16 rows a product reads its weights and little else. Three tiles of 8 KiB of words are on their way to
  a program, and two programs of a multiprocessor cover the memory's latency at its full rate. Fewer outputs
  to a program would have x read, and addresses made, for fewer codes: a third more instructions at 64.
* With more rows a weight that was unpacked meets more of them, but 32 are enough for the matrix units to take
  as long as unpacking. With 64 and four warps Hopper's own matrix instruction would be taken, which wants
  each slice of unpacked weights in shared memory, and to be waited for. The older one takes registers.
* Above `DEQUANTIZE_ABOVE` rows the product is cuBLAS's, and so is its speed; the price is writing the weight
  in 16 bits and reading it once more, which many rows outweigh.

`tools/tune_triton.py` times each row's neighbours on a GPU (`wna16`, `w8a8`, `dequantize`), and prints the
tables that it finds; nothing is ever tuned while an engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass

ANY = 1 << 30


@dataclass(frozen=True, slots=True)
class ProductConfig:
    """How a product is launched.

    Attributes:
        rows, columns: of x and of outputs, that a program computes.
        warps, stages: of a program.
        waves: programs per multiprocessor that splitting K aims at.
        fewest: tiles of a split.
    """

    rows: int
    columns: int
    warps: int
    stages: int
    waves: int
    fewest: int


Table = dict[tuple[int, int], ProductConfig]
"""By bytes of an element of x as it is multiplied, and the rows of x up to which a config holds."""

WNA16: Table = {
    (2, 16): ProductConfig(rows=16, columns=128, warps=4, stages=4, waves=2, fewest=2),
    (2, ANY): ProductConfig(rows=32, columns=128, warps=4, stages=3, waves=2, fewest=2),
    (4, ANY): ProductConfig(rows=16, columns=32, warps=4, stages=2, waves=4, fewest=2),
}
"""Weights of 2 to 8 bits."""

W8A8: Table = {
    (1, 16): ProductConfig(rows=16, columns=64, warps=4, stages=4, waves=4, fewest=2),
    (1, 64): ProductConfig(rows=64, columns=64, warps=4, stages=4, waves=2, fewest=4),
    (1, ANY): ProductConfig(rows=128, columns=128, warps=8, stages=3, waves=1, fewest=8),
}
"""int8 by int8."""

DEQUANTIZE_ABOVE = {4: 64, 8: 64}
"""Rows above which a weight is dequantized, by bits of a packed code."""

PANEL_BYTES = 64 << 20
"""Most memory for dequantized columns of a weight: wide layers are multiplied panel by panel."""


def config_of(table: Table, element: int, rows: int) -> ProductConfig:
    """The first row of the table that holds for so many rows."""
    return next(found for (size, most), found in table.items() if size == element and rows <= most)
