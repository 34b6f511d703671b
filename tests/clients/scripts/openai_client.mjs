// The official client for JavaScript.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.QUIRE_URL + "/v1",
  apiKey: process.env.QUIRE_KEY,
  maxRetries: 0,
});
const messages = [{ role: "user", content: "Write a function." }];

const whole = await client.chat.completions.create({ model: "tiny", messages, max_tokens: 12, temperature: 0 });
let text = "";
const stream = await client.chat.completions.create({
  model: "tiny",
  messages,
  max_tokens: 12,
  temperature: 0,
  stream: true,
});
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
assert.equal(text, whole.choices[0].message.content);
assert.equal((await client.models.retrieve("tiny")).id, "tiny");
await assert.rejects(
  client.chat.completions.create({ model: "other", messages }),
  (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
);
console.log("ok");
