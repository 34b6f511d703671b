"""From a checkpoint into a model's weights.

Checks everything first, then reads file by file in order: a wrong checkpoint costs no time and no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from tqdm import tqdm

from quire.contracts import TensorHeader, Weight, WeightMapping
from quire.errors import CheckpointError, PluginError
from quire.weights.checkpoint import Checkpoint
from quire.weights.headers import BITS

_SHOWN = 5
"""Problems spelt out in one error; the rest are counted."""


def renamed_headers(checkpoint: Checkpoint, mapping: WeightMapping) -> dict[str, TensorHeader]:
    """The checkpoint's headers under the model's names; each keeps its own where that is another.

    Raises:
        CheckpointError: two tensors get the same name.
    """
    headers: dict[str, TensorHeader] = {}
    for name, header in checkpoint.headers().items():
        new = mapping.rename(name)
        if new in headers:
            raise CheckpointError(
                f"Two tensors of the checkpoint are both {new!r} to the model, {name!r} is one."
            )
        headers[new] = header if new == name else replace(header, name=name)
    return headers


def load(
    model_weights: Iterable[Weight],
    checkpoint: Checkpoint,
    mapping: WeightMapping,
    *,
    progress: bool = False,
) -> int:
    """Fill every weight's target.

    A part is read into the host's memory, taken to its target's device as it is, converted there, and freed
    before the next is read: peak host memory beside the targets is about the largest part of one tensor.

    Args:
        model_weights: what the model wants, by its own names.
        checkpoint: where it is, by the names on disk.
        mapping: how the two relate, and what may be left over.
        progress: draw a bar of bytes with the file's name, if stderr is a terminal.

    Returns:
        Bytes read.

    Raises:
        CheckpointError: something is missing, unexpected, or of another shape or dtype; all of it is
            found before anything is read, and the first few are named.
        PluginError: a weight contradicts itself.
    """
    weights = list(model_weights)
    headers = renamed_headers(checkpoint, mapping)
    problems = [*_wrong(weights, headers), *_unexpected(weights, headers, mapping)]
    if problems:
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CheckpointError(
            "The checkpoint does not fit the model:" + "".join(f"\n  {p}" for p in problems[:_SHOWN]) + more
        )
    on_disk = {mapping.rename(name): name for name in checkpoint.headers()}
    wanted = [weight for weight in weights if weight.name in on_disk]
    wanted.sort(key=lambda weight: checkpoint.place(on_disk[weight.name]))
    sizes = [_part_bytes(weight, headers[weight.name]) for weight in wanted]
    with tqdm(
        desc="Loading weights",
        total=sum(sizes),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=None if progress else True,  # None: where nobody looks
    ) as bar:
        for weight, nbytes in zip(wanted, sizes, strict=True):
            bar.set_postfix_str(headers[weight.name].file, refresh=False)
            weight.store(checkpoint.read(on_disk[weight.name], weight.take))
            bar.update(nbytes)
    return sum(sizes)


def _part_bytes(weight: Weight, header: TensorHeader) -> int:
    """Bytes of the part that is read."""
    return math.prod(span.size for span in weight.take) * BITS[header.dtype] // 8


def initialise_dummy(model_weights: Iterable[Weight], seed: int = 0) -> None:
    """Fill every target with small random numbers (integers: any), to run a model without its weights.

    Matrices are uniform with the variance of a freshly made network, so that activations stay finite at
    any depth; vectors (norms, biases) are uniform around 1.
    """
    for index, weight in enumerate(model_weights):
        target = weight.target
        # What is in the file is a float, whatever becomes of it; and torch draws none of 8 bits.
        made = weight.fill is not None or target.dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
        if made:
            target = torch.empty_like(target, dtype=torch.float32)
        generator = torch.Generator(device=target.device).manual_seed((seed + 1) * 1_000_003 + index)
        if not target.dtype.is_floating_point:
            limit = 2 if target.dtype == torch.bool else min(torch.iinfo(target.dtype).max, 2**31 - 1)
            target.random_(0, limit, generator=generator)
        elif target.ndim < 2:
            target.uniform_(0.9, 1.1, generator=generator)
        else:
            bound = (3 / weight.shape[-1]) ** 0.5
            target.uniform_(-bound, bound, generator=generator)
        if made:
            weight.store(target)
        weight.loaded = True


def _wrong(weights: Sequence[Weight], headers: Mapping[str, TensorHeader]) -> list[str]:
    """What is missing, or not as the model needs it."""
    problems = []
    for weight in weights:
        taken = tuple(span.size for span in weight.take)
        if taken != tuple(weight.target.shape) or tuple(span.full for span in weight.take) != weight.shape:
            raise PluginError(
                f"A layer takes {list(taken)} of tensor {weight.name!r} {list(weight.shape)} "
                f"into a target of {list(weight.target.shape)}."
            )
        header = headers.get(weight.name)
        if header is None:
            if weight.required:
                problems.append(f"missing tensor {weight.name!r}, expected shape {list(weight.shape)}")
        elif header.shape != weight.shape:
            problems.append(
                f"{header.file}: tensor {weight.name!r} has shape {list(header.shape)}, "
                f"expected {list(weight.shape)}"
            )
        elif header.dtype not in weight.dtypes:
            problems.append(
                f"{header.file}: tensor {weight.name!r} has dtype {header.dtype}, "
                f"expected one of {', '.join(sorted(weight.dtypes))}"
            )
    return problems


def _unexpected(
    weights: Sequence[Weight], headers: Mapping[str, TensorHeader], mapping: WeightMapping
) -> list[str]:
    """What nobody wants and the mapping does not know."""
    names = {weight.name for weight in weights}
    return [
        f"{header.file}: unexpected tensor {name!r} of shape {list(header.shape)}"
        for name, header in headers.items()
        if name not in names and not name.endswith(tuple(mapping.ignored))
    ]
