"""langchain-openai: `bind_tools`, whole and streamed, and a conversation with a result."""

import os

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return "25 C"


plain = ChatOpenAI(model="fake", base_url=os.environ["QUIRE_URL"] + "/v1", api_key=os.environ["QUIRE_KEY"])
llm = plain.bind_tools([get_weather])
asked = [HumanMessage("Rome?")]
answer = llm.invoke(asked)
(call,) = answer.tool_calls
assert (call["name"], call["args"]) == ("get_weather", {"city": "Rome"})
chunks = list(llm.stream(asked))
total = chunks[0]
for chunk in chunks[1:]:
    total += chunk
assert [(one["name"], one["args"]) for one in total.tool_calls] == [("get_weather", {"city": "Rome"})]
result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
assert llm.invoke([*asked, answer, result]).content == "It is warm."
forced = plain.bind_tools([get_weather], tool_choice="required").invoke(asked)
assert [one["name"] for one in forced.tool_calls] == ["get_weather"]
schema = {
    "title": "get_weather",
    "description": "The weather of a city.",
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
made = plain.with_structured_output(schema, method="function_calling").invoke(asked)
assert made == {"city": "Rome"}, made
print("ok")
