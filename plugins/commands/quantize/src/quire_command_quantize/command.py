"""`quire quantize`: one checkpoint in, a quantized one out, and what it cost."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
from tqdm import tqdm

from quire import LLM
from quire.errors import ConfigError
from quire_command_quantize.text import Samples, perplexity, read_samples
from quire_command_quantize.tools import Job, Method, check, quantize, require

__all__ = ["command"]


@click.command("quantize")
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(get_args(Method)), required=True, help="Format to make.")
@click.option("--bits", type=int, help="Of a weight.  [default: 4; 8 for int8]")
@click.option("--group-size", type=int, default=128, show_default=True, help="Inputs that share a scale.")
@click.option("--desc-act", is_flag=True, help="GPTQ in the order of activations.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="Text of the kind that the model will see. Its last tenth is kept back for perplexity.",
)
@click.option("--samples", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--sequence-length", type=click.IntRange(min=2), default=512, show_default=True)
def command(
    model: Path,
    out: Path,
    method: Method,
    bits: int | None,
    group_size: int,
    desc_act: bool,
    calibration: Path,
    samples: int,
    sequence_length: int,
) -> None:
    """Quantize the checkpoint in the directory MODEL into the directory OUT.

    The work is GPTQModel's (gptq, awq) or llm-compressor's (int8), which must be installed beside Quire.
    """
    job = partial(
        Job,
        source=model,
        target=out,
        method=method,
        bits=bits or (8 if method == "int8" else 4),
        group_size=group_size,
        desc_act=desc_act,
    )
    check(job(samples=[]))
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is there and not empty. Name another directory.")
    require(method)
    texts, before, held = _before(model, calibration, samples, sequence_length)
    quantize(job(samples=texts.calibration))
    for path in _tokenizer_files(model):  # not every tool takes them along
        if not (out / path.name).exists():
            (out / path.name).write_bytes(path.read_bytes())
    after, less = _measure(out, texts.held_out)
    count = sum(map(len, texts.held_out))
    click.echo(f"{'':12} {'perplexity':>10} {'weights':>12}")
    click.echo(f"{'before':12} {before:10.3f} {held / 2**20:8.1f} MiB")
    click.echo(f"{method:12} {after:10.3f} {less / 2**20:8.1f} MiB")
    click.echo(f"perplexity x {after / before:.4f} on {count} tokens that were kept back of {calibration}")


def _before(model: Path, calibration: Path, samples: int, length: int) -> tuple[Samples, float, int]:
    llm = _open(model)
    try:
        texts = read_samples(calibration, llm.get_tokenizer(), count=samples, length=length)
        found = perplexity(llm, texts.held_out, _bar("perplexity before"))
        return texts, found, llm.startup_report.memory.weights
    finally:
        llm.shutdown()
        gc.collect()  # the tool is about to load the model again


def _measure(model: Path, texts: Sequence[Sequence[int]]) -> tuple[float, int]:
    llm = _open(model)
    try:
        return perplexity(llm, texts, _bar("perplexity after")), llm.startup_report.memory.weights
    finally:
        llm.shutdown()


def _open(model: Path) -> LLM:
    return LLM(str(model), show_progress=sys.stderr.isatty(), max_num_seqs=1)


def _bar(title: str) -> Any:
    return partial(tqdm, desc=title, unit="text", disable=None)


def _tokenizer_files(model: Path) -> list[Path]:
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    return [model / name for name in names if (model / name).is_file()]
