"""Ollama's official client."""

import os

import ollama

client = ollama.Client(
    host=os.environ["QUIRE_URL"], headers={"Authorization": f"Bearer {os.environ['QUIRE_KEY']}"}
)
OPTIONS = {"temperature": 0, "num_predict": 12}

assert [model.model.split(":")[0] for model in client.list().models] == ["tiny"]
assert client.show("tiny").details is not None
whole = client.generate(model="tiny", prompt="def f(", options=OPTIONS)
assert whole.done
text = "".join(
    part.response for part in client.generate(model="tiny", prompt="def f(", options=OPTIONS, stream=True)
)
assert text == whole.response
messages = [{"role": "user", "content": "Write a function."}]
answer = client.chat(model="tiny", messages=messages, options=OPTIONS)
streamed = "".join(
    part.message.content
    for part in client.chat(model="tiny", messages=messages, options=OPTIONS, stream=True)
)
assert streamed == answer.message.content
assert answer.eval_count > 0
try:
    client.generate(model="other", prompt="x")
except ollama.ResponseError as error:
    assert error.status_code == 404
else:
    raise AssertionError("an unknown model was served")
print("ok")
