"""Ollama's client: `format`, as a schema and as any JSON, in both endpoints."""

import json
import os

import ollama

client = ollama.Client(
    host=os.environ["QUIRE_URL"], headers={"Authorization": f"Bearer {os.environ['QUIRE_KEY']}"}
)
schema = {
    "type": "object",
    "properties": {"kind": {"enum": ["town", "village"]}, "people": {"type": "integer", "maximum": 9999}},
    "required": ["kind", "people"],
}
options = {"num_predict": 300, "seed": 1}
turns = [{"role": "user", "content": "Where?"}]
answer = client.chat(model="tiny", messages=turns, format=schema, options=options)
assert json.loads(answer.message.content)["kind"] in ("town", "village")
pieces = client.chat(model="tiny", messages=turns, format=schema, options=options, stream=True)
assert "".join(piece.message.content for piece in pieces) == answer.message.content
made = client.generate(model="tiny", prompt="Where?", format=schema, options=options)
assert set(json.loads(made.response)) == {"kind", "people"}
print("ok")
