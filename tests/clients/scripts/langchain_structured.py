"""langchain-openai: `with_structured_output`."""

import os
from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Place(BaseModel):
    """A place."""

    name: str = Field(max_length=8)
    kind: Literal["town", "village"]


llm = ChatOpenAI(
    model="tiny",
    base_url=os.environ["QUIRE_URL"] + "/v1",
    api_key=os.environ["QUIRE_KEY"],
    max_tokens=300,
    seed=1,
)
assert isinstance(llm.with_structured_output(Place, method="json_schema").invoke("Where?"), Place)
print("ok")
