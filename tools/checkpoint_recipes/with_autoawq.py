"""AutoAWQ: writes AWQ checkpoints. Runs where autoawq is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from awq import AutoAWQForCausalLM
from awq.modules.linear import WQLinear_GEMM, WQLinear_GEMV, WQLinear_GEMVFast
from awq.utils.packing_utils import dequantize_gemm

from checkpoint_recipes.reference import tensors
from checkpoint_recipes.sources import LENGTH
from checkpoint_recipes.variants import Variant


class Recorder:
    """Packs every linear a second time as `gemm`, the one layout that AutoAWQ unpacks without a GPU."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def wrap(self, packer: Any) -> Any:
        """A `from_linear` that remembers what the linear is, dequantized."""
        original, gemm = packer.from_linear, WQLinear_GEMM.from_linear.__func__

        def from_linear(
            linear: Any, w_bit: int, group_size: int, init_only: bool, scales: Any, zeros: Any
        ) -> Any:
            # gemm's packer wants scales and zeros [groups, out], the others [out, groups]
            turned = packer is WQLinear_GEMM
            s, z = (scales, zeros) if turned else (scales.t().contiguous(), zeros.t().contiguous())
            twin = gemm(WQLinear_GEMM, linear, w_bit, group_size, init_only, s.clone(), z.clone())
            made = original(linear, w_bit, group_size, init_only, scales, zeros)
            weight = dequantize_gemm(twin.qweight, twin.qzeros, twin.scales.float(), w_bit, twin.group_size)
            if packer is WQLinear_GEMVFast:
                weight = self._with_float_zeros(weight, twin, made)
            self.weights.append(weight.t().contiguous())
            return made

        return from_linear

    @staticmethod
    def _with_float_zeros(weight: torch.Tensor, twin: Any, made: Any) -> torch.Tensor:
        """gemv_fast keeps `-scale * zero` in fp16: `w = code * scale + qzeros`."""
        groups = twin.scales.shape[0]
        zeros = dequantize_gemm(
            torch.zeros_like(twin.qweight), twin.qzeros, twin.scales.float(), twin.w_bit, twin.group_size
        )
        kept = made.qzeros[:groups].float().repeat_interleave(twin.group_size, dim=0)
        exact: torch.Tensor = weight - zeros + kept
        return exact


def write(variant: Variant, source: Path, target: Path, samples: list[list[int]]) -> dict[str, torch.Tensor]:
    """Quantize and save; returns module name -> dequantized weight `[out, in]`."""
    layouts = {"gemm": WQLinear_GEMM, "gemv": WQLinear_GEMV, "gemv_fast": WQLinear_GEMVFast}
    packer = layouts[variant.settings["version"]]
    recorder = Recorder()
    model = AutoAWQForCausalLM.from_pretrained(str(source), torch_dtype=torch.float16, device_map="cpu")
    with mock.patch.object(packer, "from_linear", recorder.wrap(packer)):
        model.quantize(
            None, quant_config=dict(variant.settings), calib_data=samples, max_calib_seq_len=LENGTH
        )
    model.save_quantized(str(target))
    packed = [name for name, module in model.model.named_modules() if isinstance(module, packer)]
    if len(packed) != len(recorder.weights) or {f"{n}.qweight" for n in packed} - set(tensors(target)):
        raise ValueError("The tool packed other modules than it saved.")
    return dict(zip(packed, recorder.weights, strict=True))
