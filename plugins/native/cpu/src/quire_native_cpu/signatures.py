"""The functions that the library exports, with their types; `csrc/` says what each does.

Every pointer is `c_void_p`, given as an address (`tensor.data_ptr()`).
"""

from __future__ import annotations

import ctypes
from typing import Any

_P, _I, _L, _F, _B = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float, ctypes.c_bool

SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    # prepare.cpp
    "quire_prepare": (_B, []),
    "quire_huge_pages": (None, [_P, _L]),
    # rows.cpp
    "quire_rms_norm": (None, [_P, _L, _P, _L, _P, _F, _I, _I, _I, _P, _P, _I]),
    "quire_gate": (None, [_P, _L, _I, _I, _I, _I, _P, _I]),
    # linear.cpp
    "quire_packed_bytes": (_L, [_I, _I, _I]),
    "quire_pack": (None, [_P, _I, _I, _I, _P, _I]),
    "quire_linear": (None, [_P, _L, _I, _P, _P, _I]),
    "quire_head": (None, [_P, _L, _I, _P, _P, _P, _P, _P, _I]),
    # layer.cpp
    "quire_layer_scratch": (_L, [_P, _I]),
    "quire_layer": (None, [_P, _P]),
    # stack.cpp
    "quire_layers": (None, [_P, _I, _P, _P, _P, _P, _P]),
    # attention.cpp
    "quire_attention_plan": (_P, [_P, _P, _P, _P, _L, _P]),
    "quire_attention_free": (None, [_P]),
    "quire_attention_workspace": (_L, [_P]),
    "quire_attention_counts": (None, [_P, _P]),
    "quire_attention": (None, [_P, _P, _L, _I]),
    # sampling.cpp
    "quire_peak": (None, [_P, _L, _I, _I, _I, _P, _P, _P, _I]),
    "quire_draw": (None, [_P, _L, _I, _I, _I, _P, _P, _I]),
    "quire_race": (None, [_P, _L, _I, _I, _I, _P, _P, _I]),
    "quire_temperature": (None, [_P, _L, _I, _I, _I, _P, _P, _I]),
    "quire_min_p": (None, [_P, _L, _I, _I, _P, _P, _I]),
    "quire_top_k_top_p": (None, [_P, _L, _I, _I, _P, _P, _P, _I]),
    "quire_logprobs": (None, [_P, _L, _I, _I, _I, _P, _I, _P, _P, _P, _P, _I]),
    "quire_embedding": (_B, [_P, _I, _P, _L, _L, _L, _P, _I]),
    # masks.cpp
    "quire_mask": (None, [_P, _L, _I, _I, _I, _P, _L, _P, _P, _P, _P, _P, _I]),
    # gemm_int8.cpp
    "quire_int8_bytes": (_L, [_I, _I]),
    "quire_int8_pack": (None, [_P, _I, _I, _P, _P, _I]),
    "quire_int8_linear": (None, [_P, _L, _I, _I, _P, _P, _I]),
    # gemm_wna16.cpp
    "quire_wna16_bytes": (_L, [_I, _I, _I]),
    "quire_wna16_pack": (_B, [_P, _L, _B, _I, _P, _I]),
    "quire_wna16_linear": (None, [_P, _L, _I, _I, _P, _P, _I]),
}
"""Name -> (result, arguments)."""
