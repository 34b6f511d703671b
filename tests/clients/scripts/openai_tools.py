"""OpenAI's official client calls tools: chats and responses, whole and streamed."""

import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["QUIRE_URL"] + "/v1", api_key=os.environ["QUIRE_KEY"])
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
messages = [{"role": "user", "content": "Rome?"}]

message = client.chat.completions.create(model="fake", messages=messages, tools=tools).choices[0].message
(call,) = message.tool_calls
assert json.loads(call.function.arguments) == {"city": "Rome"}
assert message.reasoning_content == "A city."
with client.chat.completions.stream(model="fake", messages=messages, tools=tools) as stream:
    kinds = [event.type for event in stream]
    choice = stream.get_final_completion().choices[0]
assert choice.finish_reason == "tool_calls"
assert choice.message.tool_calls[0].function.arguments == call.function.arguments
assert kinds.count("tool_calls.function.arguments.delta") > 1, kinds
assert kinds.count("tool_calls.function.arguments.done") == 1
messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "25 C"}]
last = client.chat.completions.create(model="fake", messages=messages, tools=tools).choices[0]
assert (last.message.content, last.finish_reason) == ("It is warm.", "stop")

forced = client.chat.completions.create(
    model="fake", messages=messages[:1], tools=tools, tool_choice="required"
).choices[0]
assert forced.message.tool_calls[0].function.name == "get_weather"

functions = [{"type": "function", "name": "get_weather", "parameters": schema, "strict": False}]
response = client.responses.create(model="fake", input="Rome?", tools=functions)
thinking, call = response.output
assert thinking.content[0].text == "A city."
assert (call.type, json.loads(call.arguments)) == ("function_call", {"city": "Rome"})
with client.responses.stream(model="fake", input="Rome?", tools=functions) as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
assert [item.type for item in final.output] == ["reasoning", "function_call"]
assert kinds.count("response.function_call_arguments.delta") > 1
output = {"type": "function_call_output", "call_id": call.call_id, "output": "25 C"}
again = client.responses.create(
    model="fake", previous_response_id=response.id, input=[output], tools=functions
)
assert again.output_text == "It is warm."
print("ok")
