"""Decoder layers one after the other, as Python hands them to the library: `csrc/stack.cpp`'s structure."""

from __future__ import annotations

import ctypes


class StackLayer(ctypes.Structure):
    """`StackLayer`: one layer's constants, cache and KV group."""

    _fields_ = (
        ("layer", ctypes.c_void_p),
        ("k_cache", ctypes.c_void_p),
        ("v_cache", ctypes.c_void_p),
        ("group", ctypes.c_int64),
    )
