"""Probes on a worker: its joints, layers, kernels and backends are wrapped while one looks.

Objects get wrapped methods of their own for that time, so that a worker without probes pays nothing and no
contract knows of them. Times are wall times of the calling thread: right on a CPU alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import nn

from quire.contracts import AttentionBatch, AttentionLayer, ProfiledLayer
from quire.layers import DecoderLayer, DecoderStack, Linear, LMHead
from quire.runtime.spans import Spans, Work
from quire.runtime.worker import Worker

LAYER_CALLS = "layer calls"
"""Time in fused layers that they do not account for themselves: Python, mostly."""

_JOINTS = {"submit": "batch building", "sample": "sampling", "collect": "results"}
_KERNELS = {
    "rms_norm": "norm",
    "add_rms_norm": "norm",
    "rotary": "rotary",
    "silu_and_mul": "activation",
    "gelu_and_mul": "activation",
    "log_softmax_gather": "log probabilities",
}


@contextmanager
def probes(worker: Worker, spans: Spans) -> Iterator[list[ProfiledLayer]]:
    """Keep the time of everything the worker does, as long as this lasts.

    Yields:
        The fused layers that keep their own time: `settle` after each step.
    """
    with ExitStack() as stack:

        def probe(owner: Any, name: str, kind: str, work: Work | None = None) -> None:
            stack.enter_context(wrapped(owner, name, kind, spans, work))

        for name, kind in _JOINTS.items():
            probe(worker, name, kind)
        for name in ("clear", "copy"):
            probe(worker.kv, name, "block clearing")
        for name, kind in _KERNELS.items():
            probe(worker.kernels, name, kind, None if kind == "log probabilities" else _touched)
        attention = _AttentionWork()
        for backend in dict.fromkeys(worker.backends):
            probe(backend, "plan", "attention plan", attention.see)
            probe(backend, "forward", "attention", attention.of_call)
        model = worker.model
        probe(model, "embed", "embedding", _touched)
        probe(model, "forward", "other Python")
        probe(model, "logits", "logits", _product)
        layers: list[ProfiledLayer] = []
        if isinstance(model, nn.Module):
            heads = {id(one) for head in _of(model, LMHead) for one in _of(head, Linear)}
            for linear in _of(model, Linear):
                if id(linear) not in heads:
                    probe(linear, "forward", _name(linear), _linear_work(linear))
            stacks = [one for one in _of(model, DecoderStack) if one.fused is not None]
            inside = {id(layer) for one in stacks for layer in one}
            alone = [layer for layer in _of(model, DecoderLayer) if id(layer) not in inside]
            for block in (*stacks, *(layer for layer in alone if layer.fused is not None)):
                own = isinstance(block.fused, ProfiledLayer)
                if own:
                    block.fused.profile(True)
                    stack.callback(block.fused.profile, False)
                    block.fused.phases()
                    layers.append(block.fused)
                kind = LAYER_CALLS if own else "decoder layer"
                probe(block, "fused", kind, _block_work(block, attention, spans if own else None))
        yield layers


@contextmanager
def wrapped(owner: Any, name: str, kind: str, spans: Spans, work: Work | None = None) -> Iterator[None]:
    """Time a method, or a callable attribute, of one object."""
    own = name in vars(owner)
    call = getattr(owner, name)
    setattr(owner, name, spans.wrap(kind, call, work))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, call)
        else:
            delattr(owner, name)


def settle(layers: list[ProfiledLayer], spans: Spans) -> None:
    """Give the time of fused layers to the phases that they say it went to."""
    for layer in layers:
        for phase, seconds in layer.phases().items():
            spans.move(LAYER_CALLS, phase, seconds)


class _AttentionWork:
    """What attention has to read and to multiply, from the batch that was planned last for each backend."""

    def __init__(self) -> None:
        self._steps: dict[int | None, tuple[int, int]] = {}  # window -> keys read, products of rows and keys
        self._batches: list[AttentionBatch] = []

    def see(self, args: tuple[Any, ...], result: Any) -> tuple[float, float]:
        """A `plan`: costs nothing worth counting."""
        batch = cast(AttentionBatch, args[0])
        if self._batches and self._batches[0].seq_lens_host is not batch.seq_lens_host:  # of another step
            self._batches, self._steps = [], {}
        self._batches.append(batch)
        return 0, 0

    def of_call(self, args: tuple[Any, ...], result: Any) -> tuple[float, float]:
        """A `forward(q, k, v, kv, metadata, layer, rope)`."""
        return self.of_layer(args[5], args[0])

    def of_layer(self, layer: AttentionLayer, rows: torch.Tensor) -> tuple[float, float]:
        """Bytes of K and V, and of q and the result; operations of both products."""
        keys, products = self._step(layer.window)
        kv = 2 * layer.num_kv_heads * layer.head_dim
        own = rows.shape[0] * (kv + 2 * layer.num_q_heads * layer.head_dim)
        return (keys * kv + own) * rows.element_size(), 4.0 * products * layer.num_q_heads * layer.head_dim

    def _step(self, window: int | None) -> tuple[int, int]:
        if window not in self._steps and self._batches:
            batch = self._batches[0]
            keys = products = 0
            for rows, length in zip(batch.query_lens_host, batch.seq_lens_host, strict=True):
                most = length if window is None else min(length, window + rows - 1)
                first = length - rows + 1  # keys that the first row sees, were there no window
                seen = rows * (first + length) // 2
                if window is not None:
                    seen = sum(min(n, window) for n in range(first, length + 1))
                keys, products = keys + most, products + seen
            self._steps[window] = (keys, products)
        return self._steps.get(window, (0, 0))


def _block_work(block: nn.Module, attention: _AttentionWork, spans: Spans | None) -> Work:
    """The work of a fused layer, or of a stack of them."""
    works = [_layer_work(layer, attention, spans) for layer in _of(block, DecoderLayer)]

    def work(args: tuple[Any, ...], result: Any) -> tuple[float, float]:
        each = [one(args, result) for one in works]
        return sum(nbytes for nbytes, _ in each), sum(flops for _, flops in each)

    return work


def _layer_work(layer: DecoderLayer, attention: _AttentionWork, spans: Spans | None) -> Work:
    """The work of a fused layer: under the names of its parts if `spans` is given, else in one."""
    linears = [(_name(one), _linear_work(one)) for one in _of(layer, Linear)]
    inner: Any = getattr(layer.mixer, "attention", None)

    def work(args: tuple[Any, ...], result: Any) -> tuple[float, float]:
        x = cast(torch.Tensor, args[0])
        parts = [(name, one((x,), None)) for name, one in linears]
        parts.append(("norm", (8.0 * x.numel() * x.element_size(), 0.0)))  # two norms: two in, two out
        if inner is not None:
            parts.append(("attention", attention.of_layer(inner.layer, x)))
        if spans is None:
            return sum(nbytes for _, (nbytes, _) in parts), sum(flops for _, (_, flops) in parts)
        for name, (nbytes, flops) in parts:
            spans.work(name, nbytes, flops)
        return 0, 0

    return work


def _linear_work(linear: Linear) -> Work:
    weights, width = linear.nbytes(), linear.spec.inp.size + linear.spec.out_features
    products = 2.0 * linear.spec.inp.size * linear.spec.out_features

    def work(args: tuple[Any, ...], result: Any) -> tuple[float, float]:
        x = cast(torch.Tensor, args[0])
        rows = x.shape[0]
        return weights + rows * width * x.element_size(), rows * products

    return work


def _product(args: tuple[Any, ...], result: Any) -> tuple[float, float]:
    """The head: rows times the whole table."""
    hidden, logits = cast(torch.Tensor, args[0]), cast(torch.Tensor, result)
    table = hidden.shape[-1] * logits.shape[-1]
    size = hidden.element_size()
    return (table + hidden.numel() + logits.numel()) * size, 2.0 * hidden.shape[0] * table


def _touched(args: tuple[Any, ...], result: Any) -> tuple[float, float]:
    """Rows in and rows out, once each; constants are small."""
    given = [one for one in args[:2] if isinstance(one, torch.Tensor) and one.dim() > 1]
    made = result if isinstance(result, tuple) else (result,)
    return sum(one.numel() * one.element_size() for one in (*given, *made)), 0.0


def _name(linear: Linear) -> str:
    return linear.spec.name.rpartition(".")[2]


def _of(module: nn.Module, kind: type[Any]) -> list[Any]:
    return [one for one in module.modules() if isinstance(one, kind)]
