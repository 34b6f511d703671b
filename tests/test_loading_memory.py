"""What loading takes of the host's memory: for another device a tensor at a time, on a CPU the model once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc"),
]

HIDDEN, WIDE, LAYERS, VOCAB, SHARDS = 512, 1536, 12, 2048, 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 1,
}

SCRIPT = """
import sys
from pathlib import Path

from quire.config import EngineConfig
from quire.engine.planning.plan import make_plan
from quire.runtime.device import open_device
from quire.runtime.loading import load_model

def peak():
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

device, kernels, small, model = sys.argv[1:]
open_device("cpu")  # as a worker does first: it sets the allocator

def load(directory):
    config = EngineConfig(
        model=directory, device="cpu", dtype="bfloat16", kernels=kernels, attention_backend="torch"
    )
    return load_model(make_plan(config).worker_config(show_progress=False), device)

load(small)  # for the imports
before = peak()
loaded = load(model)
print(peak() - before, loaded.network.weight_bytes)
"""


def write(directory: Path, layers: int) -> int:
    """A checkpoint in several files and dtypes; returns the bytes of its largest file."""
    shapes = {"model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN)}
    for layer in range(layers):
        inside = f"model.layers.{layer}."
        shapes |= {inside + f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {inside + f"mlp.{name}_proj": (WIDE, HIDDEN) for name in ("gate", "up")}
        shapes |= {inside + "mlp.down_proj": (HIDDEN, WIDE)}
        shapes |= {inside + f"{name}_layernorm": (HIDDEN,) for name in ("input", "post_attention")}
    dtypes = [torch.float32, torch.bfloat16, torch.float16]
    generator = torch.Generator().manual_seed(0)
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}))
    each = -(-len(shapes) // SHARDS)
    names, largest = list(shapes), 0
    for shard in range(SHARDS):
        tensors = {
            f"{name}.weight": (0.02 * torch.randn(shapes[name], generator=generator)).to(dtypes[index % 3])
            for index, name in enumerate(names[shard * each :][:each])
        }
        save_file(tensors, directory / f"model-{shard}.safetensors")
        largest = max(largest, sum(one.nbytes for one in tensors.values()))
    return largest


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    """A small model, a larger one, and the bytes of the larger one's largest file."""
    directory = tmp_path_factory.mktemp("checkpoints")
    write(directory / "small", 1)
    return directory / "small", directory / "model", write(directory / "model", LAYERS)


def loaded(device: str, kernels: str, checkpoints: tuple[Path, Path, int]) -> tuple[int, int]:
    """(By how much the peak of resident memory rose, bytes of the weights) of a process that loads."""
    arguments = [device, kernels, *map(str, checkpoints[:2])]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *arguments], check=True, capture_output=True, text=True
    )
    rise, weights = map(int, run.stdout.split())
    return rise, weights


def test_another_devices_weights_pass_through_the_host_by_parts(
    checkpoints: tuple[Path, Path, int],
) -> None:
    """PyTorch's meta device plays the other one: what is taken on the host for it still is."""
    rise, weights = loaded("meta", "reference", checkpoints)
    shard = checkpoints[2]
    assert 2 * shard < weights  # else the bound would say nothing
    assert rise < shard


@pytest.mark.parametrize("kernels", ["reference", "torch-cpu", "cpu"])
def test_a_cpu_holds_one_copy(kernels: str, checkpoints: tuple[Path, Path, int]) -> None:
    """Also where each layer is packed anew, once all is loaded."""
    rise, weights = loaded("cpu", kernels, checkpoints)
    assert 0.5 * weights < rise < weights + checkpoints[2]
