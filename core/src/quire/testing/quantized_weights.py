"""Random quantized weights of every form, for the kernels' suite, and what they stand for."""

from __future__ import annotations

import torch

from quire.contracts import QuantizedWeight

WNA16 = [
    (form, bits)
    for form in ("grouped", "act-order", "float-zeros", "per-channel", "cut-groups", "cut-act-order")
    for bits in (2, 3, 4, 8)
] + [("centred", 8)]
"""Forms of weight whose activations stay in floating point, and their bits."""

W8A8 = [
    (form, activation)
    for form in ("per-channel", "centred", "grouped")
    for activation in ("int8_per_token", "fp8_per_token")
] + [("fp8", "fp8_per_token"), ("fp8", "fp8_static")]
"""Forms of weight of 8 bits whose activations are quantized, and how."""


def quantized(
    form: str, bits: int, device: str, activation: str | None = None, rows: int = 96
) -> QuantizedWeight:
    """A random weight of 40 outputs whose product with unit rows is of about unit size."""
    groups = 1 if form in ("per-channel", "centred", "fp8") else 4
    codes = torch.randint(2**bits, (rows, 40), dtype=torch.uint8)
    scales = (torch.rand(groups, 40) + 0.5) / 2**bits * rows**-0.5
    zeros: torch.Tensor | None = torch.randint(2**bits, (groups, 40), dtype=torch.int32)
    index = order = None
    if form == "float-zeros":
        zeros = torch.rand(groups, 40) * 2**bits
    elif form == "centred":
        codes, zeros = (codes.int() - 128).to(torch.int8), None
    elif form == "fp8":
        codes, zeros = (torch.randn(rows, 40) * 100).clamp(-448, 448).to(torch.float8_e4m3fn), None
    elif form == "act-order":
        index = torch.arange(rows, dtype=torch.int32)[torch.randperm(rows)] // (rows // groups)
        order = index.argsort(stable=True)
    elif form == "cut-groups":  # a worker's share of rows: whole groups may be elsewhere
        index = (torch.arange(rows, dtype=torch.int32) + 7) // (rows // groups + 5)
    elif form == "cut-act-order":
        index = torch.tensor([0, 0, 1, 3], dtype=torch.int32)[torch.randint(4, (rows,))]
        order = index.argsort(stable=True)

    def place(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device)

    return QuantizedWeight(
        codes=codes.to(device),
        bits=bits,
        scales=scales.to(device),
        zeros=place(zeros),
        group_index=place(index),
        permutation=place(order),
        activation=activation,  # type: ignore[arg-type] # a plain string keeps parametrized tests short
        input_scale=place(torch.tensor(0.07) if activation == "fp8_static" else None),
        bias=torch.randn(40).to(device),
    )


def by_definition(weight: QuantizedWeight) -> torch.Tensor:
    """`scale * (code - zero)` element by element's row, `[K, N]` fp64."""
    rows = weight.codes.shape[0]
    size = rows // weight.scales.shape[0]
    out = []
    for row in range(rows):
        group = row // size if weight.group_index is None else int(weight.group_index[row])
        zero = 0.0 if weight.zeros is None else weight.zeros[group].double()
        out.append(weight.scales[group].double() * (weight.codes[row].double() - zero))
    return torch.stack(out)
