"""`quire complete`: continue one prompt on a running server, as `quire generate` does in this process."""

from __future__ import annotations

import time
from pathlib import Path

import click

from quire.cli._form import form_options, given_form
from quire.cli._render import to_json
from quire.cli._server_flags import server_options
from quire.cli.generate import print_stream, read_prompt
from quire.cli.options import SettingsCommand, given_sampling, sampling_from, sampling_options
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

__all__ = ["command"]

_MAX_TOKENS = 128


@click.command("complete", cls=SettingsCommand)
@click.argument("prompt", required=False)
@server_options(required=True)
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE", help="Read the prompt from a file.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's whole answer as one JSON object.")
@click.option("--quiet", is_flag=True, help="No summary on stderr.")
@form_options
@sampling_options
def command(
    prompt: str | None,
    url: str,
    server_model: str | None,
    api_key: str | None,
    file: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Continue PROMPT on the server at --url: Quire, or any other that speaks OpenAI's API.

    PROMPT "-", or none with input piped in, reads standard input. Only the sampling flags that are given
    are sent; without --max-tokens at most 128 tokens are generated. Ctrl-C ends the answer.
    """
    text, form = read_prompt(prompt, file), given_form()
    params = sampling_from(SamplingParams(), max_tokens=_MAX_TOKENS)  # a wrong flag shows before it is sent
    from quire.cli._remote import RemoteServer

    fields = given_sampling(max_tokens=_MAX_TOKENS)
    if form is not None:
        fields["structured_outputs"] = form
    with RemoteServer(url, model=server_model, api_key=api_key, fields=fields) as server:
        if as_json:
            click.echo(to_json(server.complete(text)))
            return
        start = time.monotonic()
        last = print_stream(server.stream(text), params.n)
        if not quiet:
            tokens = None if server.usage is None else server.usage.completion_tokens
            click.echo(_summary(last, tokens, time.monotonic() - start), err=True)


def _summary(output: RequestOutput, tokens: int | None, seconds: float) -> str:
    """One line: tokens if the server counted them, time, why it ended."""
    reasons = ", ".join(sorted({str(one.finish_reason) for one in output.outputs}))
    count = "" if tokens is None else f"{tokens} tokens in "
    return f"{count}{seconds:.2f} s (finish reason: {reasons})"
