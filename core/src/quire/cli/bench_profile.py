"""`quire bench profile`, also spelt `quire bench --profile`: where a step's time goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quire.cli._bench import make_workload, workload_options
from quire.cli._render import to_json
from quire.cli.options import SettingsCommand, configuration, engine_options
from quire.config import EngineConfig

if TYPE_CHECKING:
    from quire.cli._bench import Item
    from quire.engine.profiling import ProfileReport, StepProfile

__all__ = ["command"]

DEFAULT_MODEL = "tiny"


@click.command("profile", cls=SettingsCommand)
@click.argument("model", required=False)
@workload_options(num_prompts=32, input_len=128, output_len=64)
@engine_options
def command(
    model: str | None,
    num_prompts: int,
    input_len: int,
    output_len: int,
    ragged: bool,
    text: Path | None,
    workload_seed: int,
    temperature: float,
    as_json: bool,
) -> None:
    """Run MODEL on a batch of prompts and print where the time of a step goes.

    A line per kind of operation: its time, its share of the step, what it moves and computes at least, and
    how near that is to the machine's limit (its roofline), which is measured in the same run. Steps that
    only decode and steps with prompts in them are apart. At the end stands what is outside of kernels. Tokens
    per second are those of a round without probes. On the CPU only; without MODEL the configured one, or
    the bundled tiny.
    """
    config = configuration(model)
    if not config.model:
        config = configuration(DEFAULT_MODEL)
    report = run_profile(
        config,
        temperature=temperature,
        num_prompts=num_prompts,
        input_len=input_len,
        output_len=output_len,
        ragged=ragged,
        text=text,
        workload_seed=workload_seed,
    )
    if as_json:
        click.echo(to_json(report))
    else:
        _print(report)


def run_profile(
    config: EngineConfig,
    *,
    temperature: float,
    num_prompts: int,
    input_len: int,
    output_len: int,
    ragged: bool,
    text: Path | None,
    workload_seed: int,
) -> ProfileReport:
    """Start an engine in this process and profile it.

    Raises:
        QuireError: the engine cannot start, or a request failed.
    """
    from quire.engine.assembly import start_engine  # imports torch
    from quire.engine.inputs import Prompt
    from quire.engine.profiling import profile_steps
    from quire.sampling_params import SamplingParams

    engine = start_engine(config, show_progress=False)
    try:
        first, second = (
            make_workload(
                engine.tokenizer.hf,
                num_prompts=num_prompts,
                input_len=input_len,
                output_len=output_len,
                ragged=ragged,
                text=text,
                workload_seed=seed,
            )
            for seed in (workload_seed, workload_seed + 1)
        )

        def prompts(items: list[Item]) -> list[Prompt]:
            return [{"prompt_token_ids": item.prompt_ids} for item in items]

        params = [
            SamplingParams(temperature=temperature, max_tokens=item.output_len, ignore_eos=True)
            for item in first
        ]
        return profile_steps(engine, (prompts(first), prompts(second)), params)
    finally:
        engine.client.shutdown()


def _print(report: ProfileReport) -> None:
    click.echo(f"threads  {report.threads}")
    click.echo(
        f"limits   memory is read at {report.read_gbytes_per_second:.1f} GB/s, matrices are multiplied at "
        f"{report.gflops_per_second:.0f} GFLOP/s"
    )
    for title, steps in (("decode", report.decode), ("with prompts", report.prefill)):
        if steps is not None:
            _print_steps(title, steps)


def _print_steps(title: str, steps: StepProfile) -> None:
    click.echo()
    click.secho(f"{title}: {steps.steps} steps of {steps.tokens:.1f} tokens", bold=True)
    click.echo(
        f"{'':<26}{'ms':>9}{'share':>8}{'calls':>8}{'MB':>9}{'GFLOP':>9}"
        f"{'GB/s':>8}{'GFLOP/s':>9}{'of limit':>10}"
    )
    for row in steps.rows:
        work = (
            f"{'':>43}"
            if row.roofline is None
            else (
                f"{row.mbytes:>9.1f}{row.gflops:>9.2f}{row.mbytes / row.ms:>8.1f}"
                f"{1e3 * row.gflops / row.ms:>9.0f}{row.roofline:>10.0%}"
            )
        )
        mark = "" if row.kernel else " *"
        click.echo(f"{row.kind + mark:<26}{row.ms:>9.3f}{row.share:>8.1%}{row.calls:>8.1f}{work}".rstrip())
    click.echo(f"{'step':<26}{steps.step_ms:>9.3f}")
    click.echo(
        f"outside kernels (*): {steps.outside_ms:.2f} ms = {steps.outside_share:.1%} of the step; "
        f"{steps.tokens_per_second:.0f} tokens/s, {steps.wall_ms:.2f} ms a step without probes"
    )
