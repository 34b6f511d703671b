"""Whatever is sent, the answer is a success or a refusal; and a stream says what the whole says."""

from __future__ import annotations

import json
from typing import Any

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire_server.openai.chat import ChatBody
from quire_server.openai.completions import CompletionBody

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**400])
    | st.floats()
    | st.text(max_size=5)
    | st.just("\0\ud800")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "developer"]) | VALUES, "content": st.text() | VALUES}
    ),
    min_size=1,
    max_size=2,
)
NAMES = {
    "/v1/completions": sorted({*CompletionBody.model_fields, *CompletionBody.refused, "unknown"}),
    "/v1/chat/completions": sorted({*ChatBody.model_fields, *ChatBody.refused, "unknown"}),
}
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def post(client: TestClient, path: str, body: Any) -> Any:
    return client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})


@QUICK
@given(st.data())
def test_no_body_makes_the_server_fail(client: TestClient, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(NAMES)))
    body: dict[str, Any] = {"prompt": "abc", "messages": data.draw(MESSAGES), "max_tokens": 2}
    body.pop("messages" if path == "/v1/completions" else "prompt")
    body |= data.draw(st.dictionaries(st.sampled_from(NAMES[path]), VALUES, max_size=3))
    response = post(client, path, body)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        assert response.json()["error"]["message"]


@QUICK
@given(
    prompt=st.text(min_size=1, max_size=8),
    max_tokens=st.integers(1, 12),
    echo=st.booleans(),
    logprobs=st.none() | st.integers(0, 3),
    stop=st.none() | st.text(st.characters(max_codepoint=127), min_size=1, max_size=1),
)
def test_a_stream_says_what_the_whole_says(client: TestClient, **body: Any) -> None:
    whole = post(client, "/v1/completions", body).json()
    streamed = post(
        client, "/v1/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    events = [json.loads(one) for one in streamed.text.replace("data: ", "").split("\n\n")[:-2]]
    usage = events.pop()["usage"]
    (choice,) = whole["choices"]
    parts = [event["choices"][0] for event in events]
    # The fake engine decodes byte by byte and takes back what begins a stop string, which no engine may: the
    # text is compared where it does so without loss.
    if choice["text"].isascii():
        assert "".join(part["text"] for part in parts) == choice["text"]
    assert parts[-1]["finish_reason"] == choice["finish_reason"]
    assert usage == whole["usage"]
    if choice["logprobs"] is not None:
        tokens = [token for part in parts for token in part["logprobs"]["tokens"]]
        assert tokens == choice["logprobs"]["tokens"]
