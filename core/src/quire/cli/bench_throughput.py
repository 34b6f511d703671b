"""`quire bench throughput`: all requests at once, offline; tokens per second and times per request."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import click

from quire.cli._bench import Percentiles, make_workload, report, workload_options
from quire.cli._engine import engine, is_terminal, require_success
from quire.cli.options import SettingsCommand, configuration, engine_options
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

__all__ = ["command"]


@click.command("throughput", cls=SettingsCommand)
@click.argument("model")
@workload_options(num_prompts=32, input_len=128, output_len=64)
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
    """Hand MODEL all prompts at once and measure until the last one is done.

    ttft counts from the start, so waiting for a place in the batch is part of it; itl is the time between
    two tokens of a request, each taken by itself, among all the others; tpot is a request's mean time per
    token after its first. One short request runs before, unmeasured.
    """
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
        warm_up, items = items[-1], items[:-1]
        params = [
            SamplingParams(
                temperature=temperature, max_tokens=item.output_len, ignore_eos=True, detokenize=False
            )
            for item in items
        ]
        llm.generate(
            [{"prompt_token_ids": warm_up.prompt_ids}],
            SamplingParams(temperature=temperature, max_tokens=2, ignore_eos=True, detokenize=False),
            use_tqdm=False,
        )
        begin = time.perf_counter()
        outputs = llm.generate(
            [{"prompt_token_ids": item.prompt_ids} for item in items],
            params,
            use_tqdm=is_terminal() and not as_json,
        )
        seconds = time.perf_counter() - begin
    for output in outputs:
        require_success(output)
    prompt_tokens = sum(len(item.prompt_ids) for item in items)
    output_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    report(
        {
            "requests": len(outputs),
            "prompt_tokens": prompt_tokens,
            "output_tokens": output_tokens,
            "seconds": seconds,
            "requests_per_second": len(outputs) / seconds,
            "output_tokens_per_second": output_tokens / seconds,
            "total_tokens_per_second": (prompt_tokens + output_tokens) / seconds,
        },
        _times(outputs),
        as_json=as_json,
    )


def _times(outputs: list[RequestOutput]) -> dict[str, Percentiles | None]:
    """Summaries of what the engine noted about each request."""
    ttft: list[float] = []
    itl: list[float] = []
    tpot: list[float] = []
    e2e: list[float] = []
    for output in outputs:
        metrics = output.metrics
        if metrics is None or metrics.first_token_time is None or metrics.finished_time is None:
            continue
        ttft.append(metrics.first_token_time - metrics.arrival_time)
        e2e.append(metrics.finished_time - metrics.arrival_time)
        itl += [after - before for before, after in itertools.pairwise(metrics.token_times)]
        later = len(output.outputs[0].token_ids) - 1
        if later > 0:
            tpot.append((metrics.finished_time - metrics.first_token_time) / later)
    times = {"ttft": ttft, "itl": itl, "tpot": tpot, "e2e": e2e}
    return {name: Percentiles.of(seconds) for name, seconds in times.items()}
