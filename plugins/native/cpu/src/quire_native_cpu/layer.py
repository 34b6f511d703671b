"""A fused decoder layer, as Python hands it to the library: `csrc/layer.h`'s structures."""

from __future__ import annotations

import ctypes

from quire_native_cpu.int8 import Int8Weight
from quire_native_cpu.linear import Weight
from quire_native_cpu.wna16 import Wna16Weight

PHASES = ("norm", "qkv", "rotary", "attention", "out", "gate_up", "down")
"""What `LayerCall.seconds` counts, in this order."""

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2}
"""`hidden_act` of config.json -> `Activation` in `csrc/simd_math.h`."""


class Norm(ctypes.Structure):
    """`Norm`; a weight of None means there is none."""

    _fields_ = (("weight", ctypes.c_void_p), ("eps", ctypes.c_float))


class Projection(ctypes.Structure):
    """`Projection` in `csrc/projection.h`: one of the three, and nothing in the others."""

    _fields_ = (("plain", Weight), ("int8", Int8Weight), ("wna16", Wna16Weight))


class Layer(ctypes.Structure):
    """`Layer`: what does not change from step to step."""

    _fields_ = (
        ("input_norm", Norm),
        ("post_norm", Norm),
        ("q_norm", Norm),
        ("k_norm", Norm),
        ("qkv", Projection),
        ("out", Projection),
        ("gate_up", Projection),
        ("down", Projection),
        ("dtype", ctypes.c_int32),
        ("q_heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("soft_cap", ctypes.c_float),
        ("cos_sin", ctypes.c_void_p),
        ("rotary_dim", ctypes.c_int32),
        ("interleaved", ctypes.c_int32),
        ("activation", ctypes.c_int32),
    )


class LayerCall(ctypes.Structure):
    """`LayerCall`: one step's tensors, by address."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("x", ctypes.c_void_p),
        ("residual", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("plan", ctypes.c_void_p),
        ("k_cache", ctypes.c_void_p),
        ("v_cache", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("residual_out", ctypes.c_void_p),
        ("seconds", ctypes.c_void_p),
    )
