"""OpenAI's official client parses answers into pydantic models: chats and responses."""

import os
from typing import Literal

import openai
from pydantic import BaseModel, Field


class Place(BaseModel):
    name: str = Field(max_length=8)
    kind: Literal["town", "village"]


class Trip(BaseModel):
    stops: list[Place] = Field(min_length=1, max_length=2)
    days: int = Field(ge=1, le=30)


client = openai.OpenAI(base_url=os.environ["QUIRE_URL"] + "/v1", api_key=os.environ["QUIRE_KEY"])
messages = [{"role": "user", "content": "Plan a trip."}]
rest = {"model": "tiny", "messages": messages, "response_format": Trip, "max_tokens": 400}
choice = client.chat.completions.parse(**rest, seed=1).choices[0]
assert isinstance(choice.message.parsed, Trip), choice
with client.chat.completions.stream(**rest, seed=1) as stream:
    stream.until_done()
    assert stream.get_final_completion().choices[0].message.parsed == choice.message.parsed
response = client.responses.parse(model="tiny", input="Plan a trip.", text_format=Trip, max_output_tokens=400)
assert isinstance(response.output_parsed, Trip), response
answer = client.chat.completions.create(
    model="tiny", messages=messages, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
)
assert answer.choices[0].message.content in ("yes", "no")
print("ok")
