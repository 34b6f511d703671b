"""Write quantized checkpoints with one of the tools people use, each with what it should compute beside it.

    python tools/write_quantized.py TOOL --out DIR [--tiny DIR] [NAME ...]

Runs in the environment of the tool (autoawq, autogptq, gptqmodel, llmcompressor, llmcompressor_0_6); `make
test-tools` makes those environments and calls this. NAMEs are of `checkpoint_recipes.variants`; without any,
all of the tool's. A checkpoint that is there already is left alone. `--tiny` is the bundled model's
directory.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata as metadata
import shutil
import tempfile
import traceback
from pathlib import Path

from checkpoint_recipes import reference, sources
from checkpoint_recipes.variants import TOOLS, VARIANTS, of_tool

DISTRIBUTIONS = {"autogptq": "auto-gptq", "llmcompressor_0_6": "llmcompressor"}


def main() -> int:
    """Write what is not there yet; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", type=Path, help="the bundled model's directory")
    asked = parser.parse_args()
    failed = []
    for name in asked.names or of_tool(asked.tool):
        if (asked.out / name).exists() or (VARIANTS[name].model == "tiny" and asked.tiny is None):
            continue
        try:
            make(name, asked.out, asked.tiny)
            print(f"{name}: written")
        except Exception:
            traceback.print_exc()
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "ok")
    return 1 if failed else 0


def make(name: str, out: Path, tiny: Path | None) -> None:
    """Write one checkpoint to `out/name`; it appears there when it is complete."""
    variant = VARIANTS[name]
    writer = importlib.import_module(f"checkpoint_recipes.with_{variant.tool}")
    distribution = DISTRIBUTIONS.get(variant.tool, variant.tool)
    out, tiny = out.resolve(), None if tiny is None else tiny.resolve()
    # Relative names, for some tools write down where the model was.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        source, target = Path("source"), Path(name)
        if variant.model == "tiny" and tiny is not None:
            shutil.copytree(tiny, source)
        else:
            sources.save_random(variant.model, source)
        made = writer.write(variant, source, target, sources.calibration(source))
        activations = getattr(writer, "activations", lambda _: None)(target)
        model = reference.build(target, made, activations)
        told = f"{distribution} {metadata.version(distribution)}"
        texts = sources.held_out(source) if variant.model == "tiny" else None
        reference.save(target, model, sources.prompts(source), told, texts)
        for extra in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / extra, target / extra)
        (target / "quant_log.csv").unlink(missing_ok=True)
        shutil.move(target, out / name)


if __name__ == "__main__":
    raise SystemExit(main())
