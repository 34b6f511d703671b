"""`quire chat`: a conversation in the terminal. Keeps the history; the engine renders it.

Reads one turn per line, so a conversation can also be piped in.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from quire.cli._engine import Engine, Message, engine, require_success
from quire.cli.options import SettingsCommand, configuration, engine_options, sampling_from, sampling_options
from quire.errors import InvalidRequestError, RequestFailedError
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
    # Made once before the model is loaded, so that a wrong flag shows at once.
    asked = sampling_from(SamplingParams(), max_tokens=_MAX_TOKENS)
    if asked.n != 1:
        raise InvalidRequestError(f"n: a chat has one answer per turn, got {asked.n}", field="n")
    with engine(configuration(model), quiet=quiet) as llm:
        params = sampling_from(llm.get_default_sampling_params(), max_tokens=_MAX_TOKENS, n=1)
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
    """Ask, print the answer as it comes, and remember both; a turn that is not answered is taken back."""
    conversation.add("user", text)
    printed = ""
    reason: str | None = None
    try:
        with _noted_interrupt() as interrupted:
            for output in llm.stream_chat(conversation.messages, params):
                require_success(output)
                answer = output.outputs[0].text
                reason = output.outputs[0].finish_reason
                click.echo(answer[len(printed) :], nl=False)
                printed = answer
                if interrupted.is_set():
                    break
    except (InvalidRequestError, RequestFailedError) as error:
        conversation.drop_last()
        if not interactive:
            raise
        advice = " Use /reset to start over." if isinstance(error, InvalidRequestError) else ""
        click.echo(f"error: {error}{advice}", err=True)
        return
    click.echo()
    if interrupted.is_set() and not interactive:
        raise KeyboardInterrupt
    if interrupted.is_set() and not printed:
        conversation.drop_last()
        return
    conversation.add("assistant", printed)
    if reason == "length":
        click.echo("(cut off: --max-tokens or the context's end was reached)", err=True)


@contextmanager
def _noted_interrupt() -> Iterator[threading.Event]:
    """Notes the first Ctrl-C, so that an answer ends between two engine steps; the second raises."""
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
