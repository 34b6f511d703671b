"""Anthropic's official client uses tools, and shows thinking."""

import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["QUIRE_URL"], api_key=os.environ["QUIRE_KEY"], max_retries=0)
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ask = {
    "model": "fake",
    "max_tokens": 300,
    "tools": [{"name": "get_weather", "description": "The weather.", "input_schema": schema}],
}
messages = [{"role": "user", "content": "Rome?"}]

message = client.messages.create(**ask, messages=messages)
thinking, use = message.content
assert thinking.thinking == "A city."
assert (use.type, use.name, use.input) == ("tool_use", "get_weather", {"city": "Rome"})
assert message.stop_reason == "tool_use"
with client.messages.stream(**ask, messages=messages) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_message()
assert [block.type for block in final.content] == ["thinking", "tool_use"]
assert final.content[1].input == use.input
assert "input_json" in kinds
messages += [
    {"role": "assistant", "content": message.content},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "25 C"}]},
]
last = client.messages.create(**ask, messages=messages)
assert (last.content[0].text, last.stop_reason) == ("It is warm.", "end_turn")
forced = client.messages.create(**ask, messages=messages[:1], tool_choice={"type": "any"})
assert forced.content[-1].name == "get_weather"
print("ok")
