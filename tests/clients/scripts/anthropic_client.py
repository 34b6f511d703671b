"""Anthropic's official client."""

import os

import anthropic

URL = os.environ["QUIRE_URL"]
client = anthropic.Anthropic(base_url=URL, api_key=os.environ["QUIRE_KEY"], max_retries=0)
ask = {
    "model": "tiny",
    "max_tokens": 12,
    "extra_body": {"temperature": 0},  # the client has no such parameter any more
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Write a function."}],
}

message = client.messages.create(**ask)
assert message.role == "assistant"
assert message.stop_reason in ("end_turn", "max_tokens"), message.stop_reason
with client.messages.stream(**ask) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == message.content[0].text
assert final.usage.output_tokens == message.usage.output_tokens
counted = client.messages.count_tokens(model="tiny", system=ask["system"], messages=ask["messages"])
assert counted.input_tokens == message.usage.input_tokens
try:
    client.messages.create(**{**ask, "model": "other"})
except anthropic.NotFoundError as error:
    assert error.body["type"] == "error"
else:
    raise AssertionError("an unknown model was served")
try:
    anthropic.Anthropic(base_url=URL, api_key="wrong", max_retries=0).messages.create(**ask)
except anthropic.AuthenticationError:
    pass
else:
    raise AssertionError("a wrong key was taken")
bearer = anthropic.Anthropic(base_url=URL, auth_token=os.environ["QUIRE_KEY"], api_key=None)
assert bearer.messages.create(**ask).content
print("ok")
