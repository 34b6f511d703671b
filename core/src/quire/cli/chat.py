"""`quire chat`: a conversation in the terminal. Keeps the history; the engine, or a server, renders it.

Reads one turn per line, so a conversation can also be piped in.
"""

from __future__ import annotations

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

import click
from click.core import ParameterSource

from quire.cli._engine import Message, engine, require_success
from quire.cli._server_flags import server_options
from quire.cli.options import (
    SettingsCommand,
    configuration,
    engine_flags_given,
    engine_options,
    given_sampling,
    sampling_from,
    sampling_options,
)
from quire.errors import InvalidRequestError, OverloadedError, RequestFailedError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

__all__ = ["Conversation", "command"]

Answer = Callable[[list[Message]], Iterator[RequestOutput]]
Thinking = Callable[[], str]
"""All that was thought in a turn so far."""
Interrupts = Callable[[], AbstractContextManager[threading.Event]]

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
@click.argument("model", required=False)
@server_options(required=False)
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--quiet", is_flag=True, help="No start-up report.")
@sampling_options
@engine_options
@click.pass_context
def command(
    ctx: click.Context,
    model: str | None,
    url: str | None,
    server_model: str | None,
    api_key: str | None,
    system: str | None,
    quiet: bool,
) -> None:
    """Talk with MODEL, or with a running server's. Type /help for what can be done beside talking.

    Without --max-tokens an answer has at most 512 tokens. Of the sampling flags, a server is sent those
    that are given.
    """
    _one_place(ctx, model, url)
    interactive = sys.stdin.isatty()
    # Made once before the model is loaded, so that a wrong flag shows at once.
    asked = sampling_from(SamplingParams(), max_tokens=_MAX_TOKENS)
    if asked.n != 1:
        raise InvalidRequestError(f"n: a chat has one answer per turn, got {asked.n}", field="n")

    def greet() -> None:
        if interactive and not quiet:
            click.echo("Type /help for help, /quit to leave.", err=True)

    if url is not None:
        from quire.cli._remote import RemoteServer

        fields = given_sampling(max_tokens=_MAX_TOKENS)
        with RemoteServer(url, model=server_model, api_key=api_key, fields=fields) as server:
            name = server.model()  # asked for now, so that a wrong address shows before anything is typed
            if not quiet:
                click.echo(f"{name} at {url}", err=True)
            greet()
            talk = functools.partial(_talk, server.stream_chat, Conversation(system), interactive)
            talk(_raised_interrupt, lambda: server.thinking)
        return
    with engine(configuration(model), quiet=quiet) as llm:
        params = sampling_from(llm.get_default_sampling_params(), max_tokens=_MAX_TOKENS, n=1)
        greet()
        _talk(lambda messages: llm.stream_chat(messages, params), Conversation(system), interactive)


def _one_place(ctx: click.Context, model: str | None, url: str | None) -> None:
    """Refuses flags that would have no effect: those of a server beside those of an engine.

    Raises:
        click.UsageError: naming one of them.
    """
    if url is None:
        for name, flag in (("server_model", "--model"), ("api_key", "--api-key")):
            if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{flag} goes with --url.")
        return
    if model is not None:
        raise click.UsageError("Give MODEL or --url, not both; --model names a model of the server.")
    if engine_flags_given():
        raise click.UsageError("With --url the engine is the server's: leave out --config and its options.")


def _talk(
    answer: Answer,
    conversation: Conversation,
    interactive: bool,
    interrupts: Interrupts | None = None,
    thinking: Thinking | None = None,
) -> None:
    """Turns until the user leaves; `interrupts` is `_noted_interrupt` unless another is given."""
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
                _turn(answer, conversation, line, interactive, interrupts or _noted_interrupt, thinking)


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
    answer: Answer,
    conversation: Conversation,
    text: str,
    interactive: bool,
    interrupts: Interrupts,
    thinking: Thinking | None = None,
) -> None:
    """Ask, print the answer as it comes, and remember both; a turn that is not answered is taken back.

    What is thought before it is shown, dimmed and on stderr, and not remembered.
    """
    conversation.add("user", text)
    printed = thought = ""
    reason: str | None = None
    try:
        with interrupts() as interrupted:
            for output in answer(conversation.messages):
                require_success(output)
                if thinking is not None and not printed:
                    click.secho(thinking()[len(thought) :], dim=True, nl=False, err=True)
                    thought = thinking()
                if not output.outputs:
                    continue
                said = output.outputs[0].text
                if said and not printed and thought:
                    click.echo("\n", err=True)
                reason = output.outputs[0].finish_reason
                click.echo(said[len(printed) :], nl=False)
                printed = said
                if interrupted.is_set():
                    break
    except (InvalidRequestError, OverloadedError, RequestFailedError) as error:
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


@contextmanager
def _raised_interrupt() -> Iterator[threading.Event]:
    """Ends a server's answer at the first Ctrl-C, also while nothing comes: there is no step to protect."""
    interrupted = threading.Event()
    try:
        yield interrupted
    except KeyboardInterrupt:
        interrupted.set()
