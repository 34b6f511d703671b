"""What every layer that holds weights has in common, and the walk over a model's layers.

Knows when weights are declared, filled and repacked; never what a layer computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from quire.contracts import Weight


class Layer(nn.Module):
    """A module with weights of its own (not of its children).

    Life: construction allocates, the loader fills the targets of `weights()`, `finish` repacks,
    then `forward` may be called.
    """

    def weights(self) -> Sequence[Weight]:
        """What the loader is to fill; empty once `finish` has run."""
        raise NotImplementedError

    def finish(self) -> None:
        """Repack loaded weights and drop what is no longer needed."""
        raise NotImplementedError

    def nbytes(self) -> int:
        """Bytes of weight memory held by this layer; a shared tensor counts at its owner."""
        raise NotImplementedError


class Fusible(nn.Module):
    """A block of layers that the kernels may have one callable for."""

    def fuse(self) -> None:
        """Ask them; called once all layers have finished."""
        raise NotImplementedError


def _layers(module: nn.Module) -> Iterator[Layer]:
    for child in module.modules():
        if isinstance(child, Layer):
            yield child


def _inside_out(module: nn.Module) -> Iterator[nn.Module]:
    """Every module in order, what is inside before what holds it."""
    for child in module.children():
        yield from _inside_out(child)
    yield module


def weights_of(module: nn.Module) -> Iterator[Weight]:
    """Every weight that the layers inside `module` want loaded, in the order they were built."""
    for layer in _layers(module):
        yield from layer.weights()


def finish(module: nn.Module) -> None:
    """Let every layer inside `module` repack what was loaded, then every block ask for its fused form."""
    for layer in _layers(module):
        layer.finish()
    for block in dict.fromkeys(_inside_out(module)):
        if isinstance(block, Fusible):
            block.fuse()


def weight_bytes(module: nn.Module) -> int:
    """Bytes of weight memory held by all layers inside `module`."""
    return sum(layer.nbytes() for layer in _layers(module))
