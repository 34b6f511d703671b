"""The official client's responses API."""

import os

import openai

client = openai.OpenAI(
    base_url=os.environ["QUIRE_URL"] + "/v1", api_key=os.environ["QUIRE_KEY"], max_retries=0
)

whole = client.responses.create(model="tiny", input="Write a class.", max_output_tokens=12, temperature=0)
assert whole.status in ("completed", "incomplete"), whole.status
assert whole.output_text
assert client.responses.retrieve(whole.id).output_text == whole.output_text

text, kinds = "", []
for event in client.responses.create(
    model="tiny", input="Write a class.", max_output_tokens=12, temperature=0, stream=True
):
    kinds.append(event.type)
    if event.type == "response.output_text.delta":
        text += event.delta
assert text == whole.output_text
assert kinds[0] == "response.created"
assert kinds[-1] in ("response.completed", "response.incomplete")
print("ok")
