"""Triton's interpreter without work that it does again and again. It computes what it did, in half the time.

Knows the interpreter's private parts, as of Triton 3.9, and no kernel. Types of blocks are made and checked
once each, operands of one shape are not broadcast to it, the language is patched once for a whole test, and
overflows are not computed where the assertions that they are for are off.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

__all__ = ["brisk_interpreter"]


@contextmanager
def brisk_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels that run inside are interpreted briskly; nothing changes where they are compiled.

    Args:
        monkeypatch: takes the changes to Triton back.
    """
    from triton import knobs
    from triton.runtime import interpreter

    if not knobs.runtime.interpret:
        yield
        return
    _make_types_once(monkeypatch)
    _leave_equal_shapes(monkeypatch)
    builder = interpreter.interpreter_builder
    if (
        not builder.options.debug
    ):  # `device_assert` is nothing then, and what it would have asserted is lost work
        monkeypatch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))
    scopes: list[Any] = []
    monkeypatch.setattr(interpreter, "_patch_lang", _patching_once(interpreter._patch_lang, scopes))
    try:
        yield
    finally:
        for scope in reversed(scopes):
            scope.restore()


def _patching_once(original: Callable[..., Any], scopes: list[Any]) -> Callable[..., Any]:
    """For each module of the language that a kernel's module names: once, not in every launch and call."""
    patched: set[str] = set()

    def patch(function: Callable[..., Any]) -> Any:
        modules = _language_of(function)
        if not modules <= patched:
            patched.update(modules)
            scopes.append(original(function))
        return SimpleNamespace(restore=lambda: None)

    return patch


@functools.cache
def _language_of(function: Callable[..., Any]) -> frozenset[str]:
    """Names of the modules of Triton's language in a function's globals."""
    return frozenset(
        name
        for value in function.__globals__.values()
        if inspect.ismodule(value) and (name := value.__name__).startswith("triton.language")
    )


def _make_types_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.language import core
    from triton.runtime import interpreter

    make_block, make_tensor, numpy_type = (
        core.block_type.__init__,
        core.tensor.__init__,
        interpreter._get_np_dtype,
    )
    blocks: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, tuple[Any, Any]] = {}
    numpy_types: dict[str, Any] = {}

    def block(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *[getattr(size, "value", size) for size in shape])
        known = None if element_ty.is_ptr() else blocks.get(key)
        if known is None:
            make_block(self, element_ty, shape)
            if not element_ty.is_ptr():
                blocks[key] = dict(self.__dict__)
        else:
            self.__dict__.update(known)

    def tensor(self: Any, handle: Any, kind: Any) -> None:
        key = tuple(kind.shape.values) if kind.is_block() else ()
        known = shapes.get(key)
        if known is None:
            make_tensor(self, handle, kind)
            shapes[key] = (self.shape, self.numel)
        else:
            self.handle, self.type, self.dtype = handle, kind, kind.scalar
            self.shape, self.numel = known

    def numpy_type_of(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in numpy_types:
            numpy_types[name] = numpy_type(kind)
        return numpy_types[name]

    monkeypatch.setattr(core.block_type, "__init__", block)
    monkeypatch.setattr(core.tensor, "__init__", tensor)
    monkeypatch.setattr(interpreter, "_get_np_dtype", numpy_type_of)


def _leave_equal_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.language.semantic import TritonSemantic

    broadcast = TritonSemantic.broadcast_impl_value

    def leave(self: Any, one: Any, other: Any) -> Any:
        if one.type.is_block() and other.type.is_block() and one.type.shape.values == other.type.shape.values:
            return one, other
        return broadcast(self, one, other)

    monkeypatch.setattr(TritonSemantic, "broadcast_impl_value", leave)
