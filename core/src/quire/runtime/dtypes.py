"""Dtype names, as contracts and configuration write them, and PyTorch's dtypes."""

from __future__ import annotations

import torch


def torch_dtype(name: str) -> torch.dtype:
    """The PyTorch dtype of a name such as "bfloat16" or "float8_e4m3fn"."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(  # noqa: TRY004 - the name is wrong, not its type
            f"PyTorch {torch.__version__} has no dtype {name!r}"
        )
    return dtype
