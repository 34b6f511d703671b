"""`quire chat`: a conversation in the terminal. Keeps the history; the engine renders it.

Reads one turn per line, so a conversation can also be piped in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from quire.cli._engine import Engine, Message, engine, require_success
from quire.cli._options import SettingsCommand, configuration, engine_options, sampling_from, sampling_options
from quire.errors import InvalidRequestError, RequestFailedError
from quire.outputs import RequestOutput
from quire.sampling import SamplingParams

__all__ = ["Conversation", "command"]

_MAX_TOKENS = 512
_HELP = """\
/reset          forget the conversation, keep the system message
/system TEXT    set the system message and start over; without TEXT, remove it
/help           show this
/quit           leave (as does Ctrl-D); Ctrl-C stops an answer"""


class Conversation:
    """The messages so far."""

    def __init__(self, system: str | None = None) -> None:
        self._system = system
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """What the chat template is given."""
        first: list[Message] = [] if self._system is None else [{"role": "system", "content": self._system}]
        return first + self._turns

    def add(self, role: str, content: str) -> None:
        """Append a turn."""
        self._turns.append({"role": role, "content": content})

    def drop_last(self) -> None:
        """Take back a turn that could not be answered."""
        self._turns.pop()

    def reset(self) -> None:
        """Forget all turns."""
        self._turns.clear()

    def set_system(self, text: str | None) -> None:
        """Change the system message, which starts the conversation over."""
        self._system = text
        self.reset()


@click.command("chat", cls=SettingsCommand)
@click.argument("model")
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--quiet", is_flag=True, help="No start-up report.")
@sampling_options
@engine_options
def command(model: str, system: str | None, quiet: bool) -> None:
    """Talk with MODEL. Type /help for what can be done beside talking.

    Without --max-tokens an answer has at most 512 tokens.
    """
    interactive = sys.stdin.isatty()
    with engine(configuration(model), quiet=quiet) as llm:
        params = sampling_from(llm.get_default_sampling_params(), max_tokens=_MAX_TOKENS, n=1)
        if params.n != 1:
            raise InvalidRequestError(f"n: a chat has one answer per turn, got {params.n}", field="n")
        if interactive and not quiet:
            click.echo("Type /help for help, /quit to leave.", err=True)
        _talk(llm, params, Conversation(system), interactive)


def _talk(llm: Engine, params: SamplingParams, conversation: Conversation, interactive: bool) -> None:
    for line in _lines(interactive):
        word, _, rest = line.partition(" ")
        match word:
            case "/quit" | "/exit":
                return
            case "/reset":
                conversation.reset()
                click.echo("The conversation starts over.", err=True)
            case "/system":
                conversation.set_system(rest.strip() or None)
                click.echo("The conversation starts over.", err=True)
            case "/help":
                click.echo(_HELP, err=True)
            case _ if word.startswith("/"):
                click.echo(f"Unknown command {word!r}.\n{_HELP}", err=True)
            case _:
                _turn(llm, params, conversation, line, interactive)


def _lines(interactive: bool) -> Iterator[str]:
    """What the user types, without empty lines, until the end of input."""
    if interactive:
        import readline  # noqa: F401 - line editing and history for input()
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        if line:
            yield line


def _turn(
    llm: Engine, params: SamplingParams, conversation: Conversation, text: str, interactive: bool
) -> None:
    """Ask, print the answer as it comes, and remember both; a turn that cannot be answered is taken back."""
    conversation.add("user", text)
    printed = ""
    output: RequestOutput | None = None
    try:
        for output in llm.stream_chat(conversation.messages, params):
            answer = output.outputs[0].text if output.outputs else ""
            click.echo(answer[len(printed) :], nl=False)
            printed = answer
        if output is not None:
            require_success(output)
    except KeyboardInterrupt:
        if not interactive:
            raise
        output = None
    except (InvalidRequestError, RequestFailedError) as error:
        conversation.drop_last()
        if not interactive:
            raise
        advice = " Use /reset to start over." if isinstance(error, InvalidRequestError) else ""
        click.echo(f"error: {error}{advice}", err=True)
        return
    click.echo()
    conversation.add("assistant", printed)
    if output is not None and output.outputs and output.outputs[0].finish_reason == "length":
        click.echo("(cut off: --max-tokens or the context's end was reached)", err=True)
