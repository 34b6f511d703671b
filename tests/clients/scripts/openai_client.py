"""The official client, newest version."""

import os

import openai

client = openai.OpenAI(
    base_url=os.environ["QUIRE_URL"] + "/v1", api_key=os.environ["QUIRE_KEY"], max_retries=0
)
MESSAGES = [{"role": "user", "content": "Write a function."}]

names = [model.id for model in client.models.list()]
assert names == ["tiny"], names
assert client.models.retrieve("tiny").id == "tiny"

chat = client.chat.completions.create(
    model="tiny", messages=MESSAGES, max_completion_tokens=12, temperature=0, logprobs=True, top_logprobs=3
)
choice = chat.choices[0]
assert choice.message.role == "assistant"
assert choice.finish_reason in ("stop", "length")
assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
assert len(choice.logprobs.content[0].top_logprobs) == 3
first = choice.logprobs.content[0]
assert first.logprob == max(one.logprob for one in first.top_logprobs)

text, usage = "", None
for chunk in client.chat.completions.create(
    model="tiny",
    messages=MESSAGES,
    max_completion_tokens=12,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
):
    if chunk.choices:
        text += chunk.choices[0].delta.content or ""
    usage = chunk.usage or usage
assert text == choice.message.content, (text, choice.message.content)
assert usage.completion_tokens == chat.usage.completion_tokens

several = client.completions.create(
    model="tiny", prompt=["def f(", "class A"], n=2, max_tokens=5, temperature=0.8, seed=1
)
assert [one.index for one in several.choices] == [0, 1, 2, 3]
echo = client.completions.create(
    model="tiny", prompt="def f(x):", max_tokens=1, echo=True, logprobs=1, temperature=0
)
assert echo.choices[0].text.startswith("def f(x):")
assert echo.choices[0].logprobs.token_logprobs[0] is None
extra = client.completions.create(
    model="tiny", prompt=[5, 6, 7], max_tokens=4, extra_body={"top_k": 5, "min_p": 0.1, "ignore_eos": True}
)
assert extra.usage.completion_tokens == 4

with client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True, max_tokens=500) as stream:
    next(iter(stream))  # and away

for kind, call in (
    (openai.NotFoundError, lambda: client.chat.completions.create(model="other", messages=MESSAGES)),
    (openai.NotFoundError, lambda: client.models.retrieve("other")),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="tiny", messages=[])),
    (openai.BadRequestError, lambda: client.completions.create(model="tiny", prompt="x", max_tokens=-1)),
    (openai.BadRequestError, lambda: client.completions.create(model="tiny", prompt="x", suffix="y")),
    (openai.BadRequestError, lambda: client.embeddings.create(model="tiny", input="x")),
    (
        openai.BadRequestError,
        lambda: client.completions.create(model="tiny", prompt="x " * 5000, stream=True),
    ),
):
    try:
        call()
    except kind as error:
        assert error.body["message"], error.body
    else:
        raise AssertionError(f"no {kind.__name__}")
try:
    openai.OpenAI(base_url=os.environ["QUIRE_URL"] + "/v1", api_key="wrong", max_retries=0).models.list()
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key"
else:
    raise AssertionError("a wrong key was taken")
print("ok")
