"""The engine in a process of its own: `python -m quire.engine.process.child`.

Told what to do by a `Launch` on standard input, it loads the model, binds a ZMQ ROUTER socket,
reports, and then runs steps and answers its clients until its standard input ends: that is its
lifeline, so that no engine outlives whoever started it. Knows no HTTP and no text.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

import msgspec
import zmq

from quire.engine.core import EngineCore
from quire.engine.info import EngineInfo
from quire.engine.process.wire import (
    Abort,
    Add,
    Call,
    FromClient,
    Hello,
    Launch,
    News,
    Refusal,
    Report,
    decoder,
    encode,
)
from quire.errors import InvalidRequestError, OverloadedError, QuireError
from quire.request import StepOutput

logger = logging.getLogger(__name__)

HEARTBEAT = 1.0
"""Seconds between signs of life to every client."""

_read: Callable[[bytes], FromClient] = decoder(FromClient)


class _Named(msgspec.Struct):
    request_id: str


class _Identified(msgspec.Struct):
    """As much of an `Add` as it takes to answer it."""

    request: _Named


class _Client:
    """One front end, and its requests that have not ended.

    Attributes:
        identity: its ZMQ routing id.
        prefix: before its request ids in the engine, where those of all clients meet.
        open: completions that have not finished, per request id (its own).
        accepted, refused, outputs, done: news for it.
    """

    def __init__(self, identity: bytes, number: int) -> None:
        self.identity = identity
        self.prefix = f"{number}."
        self.open: dict[str, int] = {}
        self.forget()

    def forget(self) -> None:
        """Begin new news."""
        self.accepted: list[str] = []
        self.refused: list[Refusal] = []
        self.outputs: list[StepOutput] = []
        self.done: list[int] = []

    @property
    def waits(self) -> bool:
        """Whether there is news."""
        return bool(self.accepted or self.refused or self.outputs or self.done)


class EngineServer:
    """Steps an engine core and talks to its clients, all in one thread; blocks when idle."""

    def __init__(
        self, core: EngineCore, info: EngineInfo, socket: zmq.Socket[bytes], max_queue: int | None
    ) -> None:
        self._core = core
        self._info = info
        self._socket = socket
        self._max_queue = max_queue
        self._clients: dict[bytes, _Client] = {}
        self._by_prefix: dict[str, _Client] = {}
        self._numbers = itertools.count()
        self._next_beat = 0.0

    def run(self) -> None:
        """Serve for ever; raises what makes the engine fail, after its clients were told."""
        try:
            while True:
                self._receive()
                if self._core.has_unfinished():
                    self._sort(self._core.step())
                self._send()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            for client in list(self._clients.values()):
                self._post(client, News(failure=text))
            raise

    def _receive(self) -> None:
        """Take all messages that have come; if nothing is under way wait for one, or for the heartbeat."""
        patience = 0 if self._core.has_unfinished() else max(0.0, self._next_beat - time.monotonic())
        if not self._socket.poll(int(patience * 1000)):
            return
        while True:
            try:
                identity, data = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except ValueError:
                logger.warning("A message that is not in two parts was ignored")
                continue
            try:
                message = _read(data)
            except (msgspec.DecodeError, QuireError, ValueError, TypeError, RecursionError) as error:
                self._refuse(identity, data, error)
                continue
            self._obey(identity, message)

    def _refuse(self, identity: bytes, data: bytes, error: Exception) -> None:
        """Answer a message that does not decode: whoever sent a request waits for a word about it."""
        logger.warning("A message that is not of the protocol was refused: %s", error)
        client = self._clients.get(identity)
        try:
            request_id = msgspec.msgpack.decode(data, type=_Identified).request.request_id
        except (msgspec.DecodeError, ValueError, RecursionError):
            return
        if client is not None:
            message = f"The engine cannot read this request: {error}"
            client.refused.append(Refusal(request_id, InvalidRequestError.__name__, message))

    def _obey(self, identity: bytes, message: FromClient) -> None:
        client = self._clients.get(identity)
        if isinstance(message, Hello):
            client = client or self._welcome(identity)
            self._post(client, News(info=self._info, stats=self._core.stats()))
        elif client is None:
            logger.warning("A message before the greeting was ignored")
        elif isinstance(message, Add):
            self._add(client, message)
        elif isinstance(message, Abort):
            if message.request_id in client.open:
                self._sort(self._core.abort(client.prefix + message.request_id, message.index))
        else:
            self._call(client, message)

    def _welcome(self, identity: bytes) -> _Client:
        client = _Client(identity, next(self._numbers))
        self._clients[identity] = client
        self._by_prefix[client.prefix] = client
        return client

    def _add(self, client: _Client, message: Add) -> None:
        request = message.request
        own = request.request_id
        try:
            if own in client.open:
                raise InvalidRequestError(f"The request id {own!r} is in use.", field="request_id")
            self._check_queue()
            self._core.add(dataclasses.replace(request, request_id=client.prefix + own))
        except QuireError as error:
            field = error.field if isinstance(error, InvalidRequestError) else None
            client.refused.append(Refusal(own, type(error).__name__, str(error), field))
            return
        client.open[own] = request.params.num_completions
        client.accepted.append(own)

    def _check_queue(self) -> None:
        if self._max_queue is None:
            return
        stats = self._core.stats().scheduler
        seats = max(0, self._info.max_num_seqs - stats.num_running)
        if stats.num_waiting >= self._max_queue + seats:
            raise OverloadedError(
                f"{stats.num_waiting} sequences wait already, and max_queue is {self._max_queue}. "
                "Try again later."
            )

    def _call(self, client: _Client, message: Call) -> None:
        if message.name == "reset_prefix_cache":
            self._core.reset_prefix_cache()
        else:
            self._post(client, News(stats=self._core.stats()))
        client.done.append(message.call_id)

    def _sort(self, outputs: list[StepOutput]) -> None:
        """Give each client its own outputs, under its own names."""
        for output in outputs:
            number, _, own = output.request_id.partition(".")
            client = self._by_prefix.get(f"{number}.")
            if client is None or own not in client.open:
                continue  # its front end has died; the abort's last words
            output.request_id = own
            client.outputs.append(output)
            if output.finish_reason is not None:
                client.open[own] -= 1
                if not client.open[own]:
                    del client.open[own]

    def _send(self) -> None:
        now = time.monotonic()
        stats = None
        if now >= self._next_beat:
            self._next_beat = now + HEARTBEAT
            stats = self._core.stats()
        for client in list(self._clients.values()):
            if client.waits or stats is not None:
                news = News(
                    accepted=client.accepted,
                    refused=client.refused,
                    outputs=client.outputs,
                    done=client.done,
                    stats=stats,
                )
                client.forget()
                self._post(client, news)

    def _post(self, client: _Client, news: News) -> None:
        try:
            self._socket.send_multipart((client.identity, encode(news)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._bury(client)

    def _bury(self, client: _Client) -> None:
        """Its front end has died: so do its requests."""
        logger.warning("A front end has gone; its %d requests are aborted", len(client.open))
        del self._clients[client.identity], self._by_prefix[client.prefix]
        names, client.open = list(client.open), {}
        for own in names:
            self._core.abort(client.prefix + own)


def main(report_fd: int) -> int:
    """Be an engine process; returns the exit code.

    Args:
        report_fd: file descriptor that gets `Report`s, each behind its length in 4 bytes.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s engine: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who started us decides
    with os.fdopen(report_fd, "wb") as pipe:
        launch: Launch = decoder(Launch)(_frame(sys.stdin.buffer))
        threading.Thread(target=_hang_on, args=(sys.stdin.fileno(),), daemon=True).start()
        try:
            _serve(launch, pipe)
        except QuireError as error:
            _report(pipe, Report(error=type(error).__name__, message=str(error)))
        except Exception as error:
            logger.exception("The engine has failed")
            _report(pipe, Report(error="EngineError", message=f"{type(error).__name__}: {error}"))
    return 1


def _serve(launch: Launch, pipe: BinaryIO) -> None:
    from quire.config import EngineConfig
    from quire.engine.assembly import load_core

    config = EngineConfig.load(environ={}, **launch.config)
    loaded = load_core(config, show_progress=launch.show_progress, with_tokenizer=False)
    # What is loaded stays. A full collection would go through all of it in the middle of some step.
    gc.collect()
    gc.freeze()
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.ROUTER_MANDATORY, 1),
        # A front end that is slow keeps its own requests' news waiting here, and no more than these.
        (zmq.SNDHWM, 0),
        (zmq.RCVHWM, 0),
    ):
        socket.setsockopt(option, value)
    socket.bind(launch.endpoint)
    _report(pipe, Report(info=loaded.info))
    EngineServer(loaded.core, loaded.info, socket, launch.max_queue).run()


def _frame(stream: BinaryIO) -> bytes:
    return stream.read(int.from_bytes(stream.read(4), "big"))


def _report(pipe: BinaryIO, report: Report) -> None:
    data = encode(report)
    try:
        pipe.write(len(data).to_bytes(4, "big") + data)
        pipe.flush()
    except BrokenPipeError:
        logger.debug("Nobody reads the report any more")


def _hang_on(lifeline: int) -> None:
    """Wait for the end of a file descriptor's input, and end with it.

    Not through the buffered object: a daemon thread that holds its lock is fatal when the interpreter ends.
    """
    while os.read(lifeline, 1 << 16):
        pass
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
