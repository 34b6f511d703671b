"""`quire generate`: continue one prompt, token by token to the terminal or as one JSON object."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from quire.cli._engine import engine, require_success
from quire.cli._form import form_options, given_form
from quire.cli._render import to_json
from quire.cli.options import SettingsCommand, configuration, engine_options, sampling_from, sampling_options
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams, StructuredOutputsParams

__all__ = ["command", "print_stream", "read_prompt"]

_MAX_TOKENS = 128


@click.command("generate", cls=SettingsCommand)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="Read the prompt from a file.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as one JSON object.")
@click.option("--quiet", is_flag=True, help="No start-up report and no summary on stderr.")
@form_options
@sampling_options
@engine_options
def command(model: str, prompt: str | None, file: Path | None, as_json: bool, quiet: bool) -> None:
    """Continue PROMPT with MODEL: a directory, a bundled name, or a Hugging Face hub id.

    PROMPT "-", or none with input piped in, reads standard input. Without --max-tokens at most 128
    tokens are generated.
    """
    text = read_prompt(prompt, file)
    quiet = quiet or as_json
    form = given_form()
    sampling_from(SamplingParams(), max_tokens=_MAX_TOKENS)  # a wrong flag shows before the model is loaded
    with engine(configuration(model), quiet=quiet) as llm:
        params = sampling_from(llm.get_default_sampling_params(), max_tokens=_MAX_TOKENS)
        params.structured_outputs = None if form is None else StructuredOutputsParams(**form)
        if as_json:
            (output,) = llm.generate([text], params, use_tqdm=False)
            require_success(output)
            click.echo(to_json(output))
            return
        last = print_stream(llm.stream(text, params), params.n)
        if not quiet:
            click.echo(_summary(last), err=True)


def read_prompt(prompt: str | None, file: Path | None) -> str:
    """The prompt from wherever it was given.

    Raises:
        click.UsageError: from nowhere, from two places, from what is not readable text.
    """
    if prompt is not None and file is not None:
        raise click.UsageError("Give the prompt as an argument or with --file, not both.")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
            prompt = sys.stdin.buffer.read().decode("utf-8")
    except OSError as error:
        raise click.UsageError(f"Cannot read the prompt: {error.strerror}: {file}") from None
    except UnicodeDecodeError:
        raise click.UsageError(
            f"Cannot read the prompt: {file or 'standard input'} is not UTF-8 text."
        ) from None
    if not prompt:
        raise click.UsageError("Give a prompt: as an argument, with --file, or '-' for standard input.")
    return prompt


def print_stream(outputs: Iterable[RequestOutput], n: int) -> RequestOutput:
    """Print a completion as it comes; several completions, which come side by side, at their end.

    Returns:
        The last output.

    Raises:
        RequestFailedError: the request failed inside the engine.
    """
    printed = 0
    last: RequestOutput | None = None
    for last in outputs:
        if n == 1 and last.outputs:
            click.echo(last.outputs[0].text[printed:], nl=False)
            printed = len(last.outputs[0].text)
    assert last is not None, "a stream yields at least its end"
    require_success(last)
    if n == 1:
        click.echo()
    else:
        for completion in last.outputs:
            click.echo(f"--- {completion.index + 1} of {n} ---\n{completion.text}")
    return last


def _summary(output: RequestOutput) -> str:
    """One line: tokens, speed, why it ended."""
    tokens = sum(len(completion.token_ids) for completion in output.outputs)
    reasons = {completion.finish_reason or "unfinished" for completion in output.outputs}
    speed = ""
    metrics = output.metrics
    if metrics is not None and metrics.finished_time is not None:
        seconds = metrics.finished_time - metrics.arrival_time
        speed = f" in {seconds:.2f} s" + (f", {tokens / seconds:.1f} tokens/s" if seconds > 0 else "")
    return f"{tokens} tokens{speed} (finish reason: {', '.join(sorted(reasons))})"
