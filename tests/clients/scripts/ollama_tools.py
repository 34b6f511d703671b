"""Ollama's official client calls tools, and shows thinking."""

import os

import ollama

client = ollama.Client(
    host=os.environ["QUIRE_URL"], headers={"Authorization": f"Bearer {os.environ['QUIRE_KEY']}"}
)


def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    return "25 C"


messages = [{"role": "user", "content": "Rome?"}]
answer = client.chat(model="fake", messages=messages, tools=[get_weather], think=True)
assert answer.message.thinking == "A city."
(call,) = answer.message.tool_calls
assert (call.function.name, dict(call.function.arguments)) == ("get_weather", {"city": "Rome"})
parts = list(client.chat(model="fake", messages=messages, tools=[get_weather], stream=True))
assert sum(len(part.message.tool_calls or ()) for part in parts) == 1
messages += [
    answer.message,
    {"role": "tool", "content": get_weather(**call.function.arguments), "tool_name": "get_weather"},
]
assert client.chat(model="fake", messages=messages, tools=[get_weather]).message.content == "It is warm."
assert set(client.show("fake").capabilities) >= {"tools", "thinking"}
print("ok")
