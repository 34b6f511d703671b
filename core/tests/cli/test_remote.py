"""`quire complete` and `quire chat --url` against a small server of our own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from quire.cli._remote import RemoteServer, _data
from quire.cli.chat import Conversation, _raised_interrupt, _turn
from quire.errors import ConfigError, EngineError, RequestFailedError

from .fake_server import FakeServer, serving

Run = Callable[..., Result]
KEY = "sk-very-secret"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with serving() as state:
        yield state


def test_a_completion_streams_and_is_summed_up(server: FakeServer, run: Run) -> None:
    result = run("complete", "--url", server.url, "one two")
    assert (result.exit_code, result.stdout) == (0, "one two \n")
    assert result.stderr.startswith("7 tokens in ")
    assert "finish reason: stop" in result.stderr
    assert server.bodies == [
        {
            "model": "first",
            "prompt": "one two",
            "max_tokens": 128,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_only_the_flags_that_were_given_are_sent(server: FakeServer, run: Run) -> None:
    run(
        *("complete", "--url", f"{server.url}/v1/", "hi", "--model", "second", "--quiet"),
        *("--temperature", "1.0", "--stop", "a", "--logit-bias", '{"3": 1}', "--max-tokens", "5"),
    )
    assert [path for path, _, _ in server.asked] == ["/v1/completions"]  # a named model is not looked up
    (body,) = server.bodies
    assert body["model"] == "second"
    assert body["temperature"] == 1.0  # the default of requests, but not of every server
    assert (body["stop"], body["logit_bias"], body["max_tokens"]) == (["a"], {"3": 1.0}, 5)
    assert set(body) == {
        *("model", "prompt", "stream", "stream_options", "temperature", "stop", "logit_bias", "max_tokens")
    }


@pytest.mark.parametrize("arguments", [["-"], [], ["--file"]])
def test_the_prompt_may_come_from_elsewhere(
    server: FakeServer, run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "prompt").write_text("é", encoding="utf-8")
    more = [str(tmp_path / "prompt")] if arguments == ["--file"] else []
    result = run("complete", "--url", server.url, "--quiet", *arguments, *more, input="é")
    assert (result.stdout, result.stderr) == ("é \n", "")


def test_json_is_the_servers_answer(server: FakeServer, run: Run) -> None:
    result = run("complete", "--url", server.url, "hi", "--json")
    assert json.loads(result.stdout)["choices"][0]["text"] == "a b"
    assert result.stderr == ""
    assert "stream" not in server.bodies[0]


def test_several_completions_are_told_apart(server: FakeServer, run: Run) -> None:
    result = run("complete", "--url", server.url, "a b", "--n", "2", "--quiet")
    assert result.stdout == "--- 1 of 2 ---\na b \n--- 2 of 2 ---\na b \n"


@pytest.mark.parametrize("by_flag", [True, False])
def test_the_key_is_sent(
    server: FakeServer, run: Run, monkeypatch: pytest.MonkeyPatch, by_flag: bool
) -> None:
    if not by_flag:
        monkeypatch.setenv("QUIRE_API_KEY", KEY)
    run("complete", "--url", server.url, "hi", *(["--api-key", KEY] if by_flag else []))
    assert {header for _, _, header in server.asked} == {f"Bearer {KEY}"}
    assert run("config", "--show").exit_code == 0  # the variable is no setting, and no error


def openai_error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode()


@pytest.mark.parametrize(
    ("refusal", "expected"),
    [
        ((400, {}, openai_error("temperature: too hot")), ["answers 400: temperature: too hot"]),
        (
            (401, {}, openai_error("No such key.")),
            ["answers 401: No such key.", "--api-key", "QUIRE_API_KEY"],
        ),
        ((404, {}, openai_error("No model 'x'.")), ["answers 404: No model 'x'.", "--model"]),
        ((404, {}, b'{"detail": "Not Found"}'), ["answers 404: Not Found"]),
        ((429, {"Retry-After": "3"}, openai_error("Full.")), ["429: Full.", "Try again in 3 s."]),
        ((429, {}, openai_error("Full.")), ["Try again later."]),
        ((500, {}, b"<html>" + b"x" * 9000), ["answers 500: <html>xxx"]),
        ((503, {}, b""), ["answers 503: Service Unavailable"]),
        ((200, {}, b"hello"), ["does not speak OpenAI's API: it sends b'hello'"]),
        ((200, {}, b"[1]"), ["does not speak OpenAI's API"]),
        ((200, {}, b'{"data": []}'), ["lists no model. Name one with --model."]),
    ],
)
def test_what_a_server_refuses_is_a_message(
    server: FakeServer, run: Run, refusal: Any, expected: list[str]
) -> None:
    server.refusal = refusal
    result = run("complete", "--url", server.url, "hi", "--api-key", KEY)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr) < 1000
    assert KEY not in result.output
    for text in expected:
        assert text in result.stderr


def test_a_stream_that_is_refused_is_a_message_too(server: FakeServer, run: Run) -> None:
    server.refusal = (400, {}, openai_error("top_k: no"))
    result = run("complete", "--url", server.url, "hi", "--model", "m")
    assert (result.exit_code, "400: top_k: no" in result.stderr) == (1, True)


def test_nobody_there(run: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for arguments in (["complete", "hi"], ["chat"]):
            result = run(*arguments, "--url", url)
            assert result.exit_code == 1
            assert f"No server answers at {url}/v1" in result.stderr
            assert "quire serve" in result.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("127.0.0.1:8000", "must be such as http://"),
        ("ftp://host", "must be such as http://"),
        ("http://", "must be such as http://"),
        ("http://user:sk-very-secret@host", "no user"),
        ("http://host:port", "is no address"),
    ],
)
def test_an_address_must_be_one(run: Run, url: str, expected: str) -> None:
    result = run("complete", "--url", url, "hi")
    assert (result.exit_code, expected in result.stderr) == (1, True)
    assert KEY not in result.stderr


@pytest.mark.parametrize("key", ["é", "a\nb"])
def test_a_key_that_no_header_can_carry_is_not_printed(run: Run, key: str) -> None:
    result = run("complete", "--url", "http://127.0.0.1:1", "hi", "--api-key", key)
    assert (result.exit_code, key in result.stderr) == (1, False)
    assert "no HTTP header can carry" in result.stderr


def test_a_stream_that_breaks_off_is_an_error_after_what_came(server: FakeServer, run: Run) -> None:
    server.cut = 1
    result = run("complete", "--url", server.url, "one two")
    assert (result.exit_code, result.stdout) == (1, "one ")
    assert "broke off before its end" in result.stderr


def test_an_error_inside_a_stream_is_one(server: FakeServer, run: Run) -> None:
    server.error_event = {"error": {"message": "the engine died"}}
    result = run("complete", "--url", server.url, "one two")
    assert (result.exit_code, "The server failed: the engine died" in result.stderr) == (1, True)


def test_a_connection_that_is_cut_is_an_error() -> None:
    """Fewer bytes than were announced: the transport's error, not only a missing end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\ndata: {"choices": []}\n\n')

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            RemoteServer(url, model="m") as remote,
            pytest.raises(RequestFailedError, match="broke before the answer's end"),
        ):
            list(remote.stream("hi"))
        thread.join()


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_events_are_found_however_they_are_cut(size: int, end: bytes) -> None:
    lines = [
        b"data: a\xe2\x80\xa8b",
        b"",
        b": comment",
        b"event: x",
        b"data:c",
        b"data: d",
        b"",
        b"data: lost",
    ]
    stream = b"".join(line + end for line in lines)
    chunks = iter([stream[at : at + size] for at in range(0, len(stream), size)])
    assert list(_data(chunks)) == [b"a\xe2\x80\xa8b", b"c\nd"]


def test_text_with_odd_line_ends_arrives_whole(server: FakeServer) -> None:
    with RemoteServer(server.url, model="m") as remote:
        *_, last = remote.stream("a\u2028b\x85c")
    assert last.outputs[0].text == "a\u2028b\x85c "
    assert remote.usage is not None
    assert remote.usage.prompt_tokens == 2


def test_a_chat_with_a_server(server: FakeServer, run: Run, fakes: Any) -> None:
    flags = ["--system", "s", "--top-k", "3", "--logprobs", "2"]
    result = run("chat", "--url", server.url, *flags, input="hi\nyo\n")
    assert (result.exit_code, result.stdout) == (0, "s hi \ns hi s hi  yo \n")
    assert f"first at {server.url}" in result.stderr
    assert [one["role"] for one in server.bodies[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert {(body["top_k"], body["max_tokens"]) for body in server.bodies} == {(3, 512)}
    assert {(body["logprobs"], body["top_logprobs"]) for body in server.bodies} == {(True, 2)}
    assert {path for path, _, _ in server.asked} == {"/v1/models", "/v1/chat/completions"}
    assert not fakes.opened


def test_thinking_is_shown_beside_the_answer(server: FakeServer, run: Run) -> None:
    server.thinking = "Let me see."
    result = run("chat", "--url", server.url, "--quiet", input="hi\nyo\n")
    assert result.stdout == "hi \nhi hi  yo \n"
    assert result.stderr == "Let me see. \n\n" * 2
    assert [one["content"] for one in server.bodies[1]["messages"]] == ["hi", "hi ", "yo"]


def test_a_form_is_asked_of_a_server(server: FakeServer, run: Run) -> None:
    run("complete", "--url", server.url, "hi", "--choice", "a", "--choice", "b")
    assert server.bodies[-1]["structured_outputs"] == {"choice": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tiny", "--url", "http://x"], "Give MODEL or --url, not both"),
        (["--url", "http://x", "--dtype", "half"], "With --url the engine is the server's"),
        (["--url", "http://x", "--config", "a.yaml"], "With --url the engine is the server's"),
        (["tiny", "--model", "x"], "--model goes with --url"),
        (["tiny", "--api-key", "x"], "--api-key goes with --url"),
    ],
)
def test_flags_without_effect_are_refused(fakes: Any, run: Run, arguments: list[str], expected: str) -> None:
    result = run("chat", *arguments, input="")
    assert (result.exit_code, expected in result.stderr) == (2, True)
    assert not fakes.opened


def test_without_a_model_the_configuration_names_it(
    fakes: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("chat", "--quiet", input="")
    assert (result.exit_code, "model: name one" in result.stderr) == (1, True)
    monkeypatch.setenv("QUIRE_MODEL", "tiny")
    monkeypatch.setenv("QUIRE_API_KEY", KEY)
    assert run("chat", "--quiet", "--max-tokens", "4", input="hi\n").stdout == "user\n"


def test_a_full_server_does_not_end_a_chat_in_the_terminal(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusal = (429, {}, openai_error("Full."))
    conversation = Conversation()
    with RemoteServer(server.url, model="m") as remote:
        _turn(remote.stream_chat, conversation, "hi", True, _raised_interrupt)
        server.refusal = None
        _turn(remote.stream_chat, conversation, "yo", True, _raised_interrupt)
    assert "429: Full. Try again later." in capsys.readouterr().err
    assert [one["content"] for one in conversation.messages] == ["yo", "yo "]


def test_ctrl_c_ends_an_answer_although_nothing_comes(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.hang = True
    conversation = Conversation()
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with RemoteServer(server.url, model="m") as remote:
        timer.start()
        _turn(remote.stream_chat, conversation, "one two", True, _raised_interrupt)
        assert server.gone.wait(5)  # the connection is closed, so the server stops, too
    timer.join()
    assert conversation.messages[-1] == {"role": "assistant", "content": "one "}
    assert capsys.readouterr().out == "one \n"


def test_ctrl_c_ends_a_completion(server: FakeServer) -> None:
    server.hang = True
    process = subprocess.Popen(
        [sys.executable, "-m", "quire.cli", "complete", "--url", server.url, "one two"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not server.bodies:
        time.sleep(0.02)
    assert process.stdout is not None
    assert process.stdout.read(4) == "one "
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, "Traceback" in errors) == (130, False)


def test_asking_a_server_imports_no_torch() -> None:
    code = (
        "import sys\nfrom quire.cli import main\n"
        "main(['complete', '--url', 'http://127.0.0.1:1', 'hi'])\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "No server answers" in done.stderr
    assert {"torch", "transformers", "numpy"} & set(done.stdout.split()) == set()


def test_errors_of_the_tree() -> None:
    with pytest.raises(ConfigError):
        RemoteServer("nowhere")
    with RemoteServer("http://127.0.0.1:1", model="m") as remote, pytest.raises(EngineError):
        remote.complete("hi")
