"""The bundled model with more layers that add nothing: it says what it always says, at a large model's cost.

    python bench/deepened.py [--layers 192]

Their output projections are zero, so that each passes on what comes in, exactly; whoever computes it cannot
know. What a draft model guesses of it is then what it guesses of the bundled model, while a step takes what a
model of that many layers takes. Made once and kept in the temporary directory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

LAYERS = 192
_ZERO = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def make_deepened(layers: int = LAYERS) -> Path:
    """The checkpoint; made if it is not there yet."""
    source = Path(str(files("quire_models_tiny"))) / "data"
    directory = Path(tempfile.gettempdir()) / f"quire-bench-tiny-{layers}-layers"
    if (directory / "config.json").exists():
        return directory
    import torch
    from safetensors.torch import load_file, save_file

    directory.mkdir(exist_ok=True)
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    own = config["num_hidden_layers"]
    generator = torch.Generator().manual_seed(96)
    first = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.0.")}
    for layer in range(own, layers):
        for name, like in first.items():
            rest = name.removeprefix("model.layers.0.")
            fill = (
                torch.randn(like.shape, generator=generator) * 0.02
                if like.ndim > 1
                else torch.ones(like.shape)
            )
            tensors[f"model.layers.{layer}.{rest}"] = (
                torch.zeros_like(like) if rest in _ZERO else fill.to(like.dtype)
            )
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(source / name, directory / name)
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}, indent=2))
    return directory


def main() -> None:
    """Make one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=LAYERS)
    print(make_deepened(parser.parse_args().layers))


if __name__ == "__main__":
    main()
