"""langchain-openai: whole answers, streams with usage, and a chain."""

import os

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI

base = {"model": "tiny", "base_url": os.environ["QUIRE_URL"] + "/v1", "api_key": os.environ["QUIRE_KEY"]}
llm = ChatOpenAI(**base, temperature=0, max_tokens=12, stream_usage=True)

whole = llm.invoke("Write a function.")
assert whole.usage_metadata["output_tokens"] > 0
text, usage = "", None
for chunk in llm.stream("Write a function."):
    text += chunk.content
    usage = chunk.usage_metadata or usage
assert text == whole.content, (text, whole.content)
assert usage["output_tokens"] == whole.usage_metadata["output_tokens"]
chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{what}")]) | llm
assert isinstance(chain.invoke({"what": "Write a class."}).content, str)
assert len(llm.batch(["a", "b", "c"])) == 3
assert OpenAI(**base, temperature=0, max_tokens=5).invoke("def f(")
print("ok")
