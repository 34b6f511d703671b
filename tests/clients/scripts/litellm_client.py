"""litellm through the three providers that people use for servers of this kind."""

import os

import litellm

base = {"api_base": os.environ["QUIRE_URL"] + "/v1", "api_key": os.environ["QUIRE_KEY"], "num_retries": 0}
MESSAGES = [{"role": "user", "content": "Write a function."}]

answers = []
for provider in ("openai", "hosted_vllm"):
    whole = litellm.completion(
        model=f"{provider}/tiny", messages=MESSAGES, max_tokens=10, temperature=0, **base
    )
    answers.append(whole.choices[0].message.content)
    text = ""
    for chunk in litellm.completion(
        model=f"{provider}/tiny", messages=MESSAGES, max_tokens=10, temperature=0, stream=True, **base
    ):
        text += chunk.choices[0].delta.content or ""
    assert text == answers[-1], (provider, text, answers[-1])
assert answers[0] == answers[1]
completion = litellm.text_completion(
    model="text-completion-openai/tiny", prompt="def f(", max_tokens=5, temperature=0, **base
)
assert completion.choices[0].text
try:
    litellm.completion(
        model="openai/tiny", messages=[{"role": "user", "content": "x " * 5000}], max_tokens=5, **base
    )
except litellm.ContextWindowExceededError:
    pass
else:
    raise AssertionError("a prompt too long was served")
print("ok")
