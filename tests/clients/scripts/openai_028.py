"""The official client before its version 1: module functions, `api_base`, dictionaries."""

import os

import openai

openai.api_base = os.environ["QUIRE_URL"] + "/v1"
openai.api_key = os.environ["QUIRE_KEY"]
MESSAGES = [{"role": "user", "content": "Write a function."}]

answer = openai.ChatCompletion.create(model="tiny", messages=MESSAGES, max_tokens=10, temperature=0)
content = answer["choices"][0]["message"]["content"]
text = ""
for chunk in openai.ChatCompletion.create(
    model="tiny", messages=MESSAGES, max_tokens=10, temperature=0, stream=True
):
    text += chunk["choices"][0]["delta"].get("content", "")
assert text == content, (text, content)
completion = openai.Completion.create(model="tiny", prompt="def f(", max_tokens=5)
assert completion["usage"]["completion_tokens"] <= 5
assert [one["id"] for one in openai.Model.list()["data"]] == ["tiny"]
try:
    openai.ChatCompletion.create(model="other", messages=MESSAGES)
except openai.error.InvalidRequestError as error:
    assert "other" in str(error)
else:
    raise AssertionError("an unknown model was served")
print("ok")
