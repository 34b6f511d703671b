"""`quire bench latency`: one request at a time, offline; the time of each token as its reader sees it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import click

from quire.cli._bench import Item, Percentiles, make_workload, report, workload_options
from quire.cli._engine import Engine, engine, is_terminal, require_success
from quire.cli.options import SettingsCommand, configuration, engine_options
from quire.sampling_params import SamplingParams

__all__ = ["command"]


@click.command("latency", cls=SettingsCommand)
@click.argument("model")
@workload_options(num_prompts=8, input_len=128, output_len=64)
@engine_options
def command(
    model: str,
    num_prompts: int,
    input_len: int,
    output_len: int,
    ragged: bool,
    text: Path | None,
    workload_seed: int,
    temperature: float,
    as_json: bool,
) -> None:
    """Run MODEL on one prompt after the other and measure when each token arrives.

    ttft is the time to the first token, itl that between tokens, e2e that to the last. One request
    runs before, unmeasured.
    """
    from rich.console import Console
    from rich.progress import track

    with engine(configuration(model), quiet=as_json) as llm:
        items = make_workload(
            llm.get_tokenizer(),
            num_prompts=num_prompts + 1,
            input_len=input_len,
            output_len=output_len,
            ragged=ragged,
            text=text,
            workload_seed=workload_seed,
        )
        _arrivals(llm, items[-1], temperature)
        begin = time.perf_counter()
        runs = [
            _arrivals(llm, item, temperature)
            for item in track(
                items[:-1], "Requests", console=Console(stderr=True), disable=as_json or not is_terminal()
            )
        ]
        seconds = time.perf_counter() - begin
    tokens = sum(len(run) for run in runs)
    report(
        {
            "requests": len(runs),
            "prompt_tokens": sum(len(item.prompt_ids) for item in items[:-1]),
            "output_tokens": tokens,
            "seconds": seconds,
            "output_tokens_per_second": tokens / seconds,
        },
        {
            "ttft": Percentiles.of([run[0] for run in runs if run]),
            "itl": Percentiles.of([b - a for run in runs for a, b in itertools.pairwise(run)]),
            "e2e": Percentiles.of([run[-1] for run in runs if run]),
        },
        as_json=as_json,
    )


def _arrivals(llm: Engine, item: Item, temperature: float) -> list[float]:
    """Seconds from the request to each of its tokens; tokens that arrive together have the same."""
    params = SamplingParams(temperature=temperature, max_tokens=item.output_len, ignore_eos=True)
    arrivals: list[float] = []
    begin = time.perf_counter()
    for output in llm.stream({"prompt_token_ids": item.prompt_ids}, params):
        new = len(output.outputs[0].token_ids) - len(arrivals) if output.outputs else 0
        arrivals += [time.perf_counter() - begin] * new
        if output.finished:
            require_success(output)
    return arrivals
