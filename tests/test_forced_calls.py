"""Forced calls of the bundled model, which was never trained to call: they obey their schemas."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import quire_models_tiny
from tests.chat_templates import QWEN
from tests.live import LiveServer

jsonschema = pytest.importorskip("jsonschema")

PLACE = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "zone": {"enum": ["a", "b"]}},
    "required": ["name", "zone"],
    "additionalProperties": False,
}
TRIP = {
    "type": "object",
    "properties": {
        "stops": {"type": "array", "items": PLACE, "minItems": 1, "maxItems": 2},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
    },
    "required": ["stops", "days"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {"book": TRIP, "find": PLACE}
PATH = "/v1/chat/completions"


@pytest.fixture(
    scope="module",
    params=[
        ("xgrammar", "hermes", {"model": "tiny-draft", "num_speculative_tokens": 3}),
        ("llguidance", "mistral", {"method": "ngram", "num_speculative_tokens": 3}),
        ("llguidance", "llama3_json", None),
    ],
    ids=lambda given: "-".join(given[:2]),
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The bundled model, a template that shows tools, a grammar backend, a form of calls, drafts or none."""
    backend, parser, drafts = request.param
    home = tmp_path_factory.mktemp("model")
    for file in (Path(quire_models_tiny.__file__).parent / "data").iterdir():
        if file.name != "tokenizer_config.json":
            shutil.copy(file, home)
        else:
            config = json.loads(file.read_text())
            (home / file.name).write_text(json.dumps(config | {"chat_template": QWEN}))
    settings = home / "quire.yaml"
    # Compiling has time, for the machine may be busy. In fp32, for each request is made twice: in fewer bits
    # its tokens' probabilities are rounded otherwise with drafts beside them than without.
    settings.write_text(
        "dtype: float32\n"
        f"structured_outputs: {{backend: {backend}, compile_timeout: 20}}\ntool_call_parser: {parser}\n"
        + (f"speculative_config: {json.dumps(drafts)}\n" if drafts else "")
    )
    with LiveServer(
        *("--config", str(settings), "--served-model-name", "tiny", "--log-level", "warning"), model=str(home)
    ) as live:
        yield live


def asked(seed: int, **fields: Any) -> dict[str, Any]:
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in SCHEMAS.items()
    ]
    base = {"model": "tiny", "messages": [{"role": "user", "content": "Go."}], "tools": tools}
    return {**base, "temperature": 1.0, "max_tokens": 300, "seed": seed, **fields}


def whole(server: LiveServer, body: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """How an answer ended, and its calls."""
    reply = server.client.post(PATH, json=body)
    assert reply.status_code == 200, reply.text
    (choice,) = reply.json()["choices"]
    functions = [call["function"] for call in choice["message"].get("tool_calls") or ()]
    return choice["finish_reason"], [(one["name"], one["arguments"]) for one in functions]


def streamed(server: LiveServer, body: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The same from a stream."""
    reply = server.client.post(PATH, json=body | {"stream": True})
    assert reply.status_code == 200, reply.text
    names: list[str] = []
    arguments: list[str] = []
    reason = ""
    for line in reply.text.splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            reason = choice["finish_reason"] or reason
            for call in choice["delta"].get("tool_calls") or ():
                if "name" in call["function"]:
                    names.append(call["function"]["name"])
                    arguments.append("")
                arguments[call["index"]] += call["function"].get("arguments") or ""
    return reason, list(zip(names, arguments, strict=True))


def check(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def test_required_calls_obey_their_schemas_whole_and_streamed(server: LiveServer) -> None:
    for seed in range(3):
        body = asked(seed, tool_choice="required")
        reason, calls = whole(server, body)
        check(calls)
        assert calls
        again, pieces = streamed(server, body)  # where the limit has cut a call, with its beginning
        assert again == reason
        assert reason == "length" or pieces == calls
        assert pieces[: len(calls)] == calls


def test_a_named_tool_is_called_once(server: LiveServer) -> None:
    choice = {"type": "function", "function": {"name": "book"}}
    for seed in range(3):
        body = asked(seed, tool_choice=choice)
        reason, calls = whole(server, body)
        check(calls)
        assert (reason, [name for name, _ in calls]) == ("tool_calls", ["book"])
        assert streamed(server, body) == (reason, calls)


def test_without_parallel_calls_there_is_one(server: LiveServer) -> None:
    for seed in range(3):
        reason, calls = whole(server, asked(seed, tool_choice="required", parallel_tool_calls=False))
        check(calls)
        assert (reason, len(calls)) == ("tool_calls", 1)


def test_strict_tools_leave_the_choice_to_the_model(server: LiveServer) -> None:
    for seed in range(3):
        body = asked(seed, max_tokens=40)
        for tool in body["tools"]:
            tool["function"]["strict"] = True
        reason, calls = whole(server, body)
        assert reason in ("stop", "length", "tool_calls")
        check(calls)


def test_other_dialects_force_calls_too(server: LiveServer) -> None:
    tools = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    body = {
        "model": "tiny",
        "max_tokens": 300,
        "messages": [{"role": "user", "content": "Go."}],
        "tools": tools,
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    message = server.client.post("/v1/messages", json=body).json()
    (block,) = message["content"]
    assert (block["type"], message["stop_reason"]) == ("tool_use", "tool_use")
    check([(block["name"], json.dumps(block["input"]))])
    named = [{"type": "function", "name": name, "parameters": one} for name, one in SCHEMAS.items()]
    choice = {"type": "function", "name": "find"}
    response = server.client.post(
        "/v1/responses", json={"model": "tiny", "input": "Go.", "tools": named, "tool_choice": choice}
    ).json()
    (item,) = response["output"]
    assert (item["type"], item["name"]) == ("function_call", "find")
    check([(item["name"], item["arguments"])])


def test_a_schema_that_cannot_be_held_is_told_of(server: LiveServer) -> None:
    odd = {"type": "function", "function": {"name": "f", "parameters": {"type": "strange"}}}
    reply = server.client.post(PATH, json=asked(0, tools=[odd], tool_choice="required"))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "tools")
