"""The tools that quantize, called as they document it. Nothing here quantizes by itself.

Each function takes a directory and token ids, and leaves a checkpoint that `quire` loads. A tool is imported
only where it is called: it is an optional extra of this package.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quire.errors import ConfigError

Method = Literal["gptq", "awq", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be made.

    Attributes:
        source: the plain checkpoint.
        target: directory for the quantized one.
        method: which format.
        bits: of a weight.
        group_size: inputs that share a scale; -1 for all. int8 has a scale per output instead.
        desc_act: GPTQ in the order of activations: a little better, and slower on some engines.
        samples: token ids to calibrate with.
    """

    source: Path
    target: Path
    method: Method
    bits: int
    group_size: int
    desc_act: bool
    samples: Sequence[Sequence[int]]


def check(job: Job) -> None:
    """Refuse what the format does not have, before anything is loaded.

    Raises:
        ConfigError: naming the value and what would do.
    """
    allowed = {"gptq": (2, 3, 4, 8), "awq": (4,), "int8": (8,)}[job.method]
    if job.bits not in allowed:
        raise ConfigError(f"--bits {job.bits}: {job.method} has {' or '.join(map(str, allowed))}.")
    if job.desc_act and job.method != "gptq":
        raise ConfigError(f"--desc-act goes with --method gptq, not {job.method}.")


def require(method: Method) -> None:
    """See that the method's tool is installed here.

    Raises:
        ConfigError: it is not; with the line that installs it.
    """
    module = _MODULES[method]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--method {method} is done by {module}, which cannot be imported here ({error}). Install it, "
            "in torch.txt the version of torch that is to stay:\n    " + "\n    ".join(_INSTALL[module])
        ) from error


def quantize(job: Job) -> None:
    """Let the tool work; it draws its own progress bar, a step per layer."""
    _RUN[job.method](job)


def _gptqmodel(job: Job) -> None:
    # Its default is fewer than it wants itself where there are two cores.
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    gptqmodel: Any = importlib.import_module("gptqmodel")
    configs: Any = importlib.import_module("gptqmodel.quantization.config")
    if job.method == "gptq":
        config = configs.GPTQConfig(
            bits=job.bits, group_size=job.group_size, desc_act=job.desc_act, offload_to_disk=False
        )
    else:
        config = configs.AWQConfig(bits=job.bits, group_size=job.group_size, sym=False, offload_to_disk=False)
    model = gptqmodel.GPTQModel.load(str(job.source), config)
    model.quantize(_examples(job), batch_size=1)
    model.save(str(job.target))


def _llmcompressor(job: Job) -> None:
    compressor: Any = importlib.import_module("llmcompressor")
    modifiers: Any = importlib.import_module("llmcompressor.modifiers.quantization")
    datasets: Any = importlib.import_module("datasets")
    compressor.oneshot(
        model=str(job.source),
        dataset=datasets.Dataset.from_list(_examples(job)),
        recipe=modifiers.GPTQModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"]),
        max_seq_length=max(map(len, job.samples)),
        num_calibration_samples=len(job.samples),
        output_dir=str(job.target),
    )


def _examples(job: Job) -> list[dict[str, list[int]]]:
    return [{"input_ids": list(ids), "attention_mask": [1] * len(ids)} for ids in job.samples]


_PIP = "pip install --constraint torch.txt"
_INSTALL = {
    "gptqmodel": (
        f"{_PIP} 'quire-command-quantize[gptqmodel]'",
        f"{_PIP} --no-deps --no-build-isolation gptqmodel==7.7.0",
    ),
    "llmcompressor": (f"{_PIP} 'quire-command-quantize[llmcompressor]'",),
}
"""gptqmodel asks for a later torch than it needs: the extra brings everything else."""

_MODULES: dict[Method, str] = {"gptq": "gptqmodel", "awq": "gptqmodel", "int8": "llmcompressor"}
_RUN: dict[Method, Callable[[Job], None]] = {"gptq": _gptqmodel, "awq": _gptqmodel, "int8": _llmcompressor}
