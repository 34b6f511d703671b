// The current request as a shell command and as a Python program. Never holds the key itself. Knows no page.

/** `request`: `{mode, body}`; `base`: address of `/v1`; `keyed`: whether the server asks for a key. */
export function asCurl({ mode, body }, base, keyed) {
  const path = mode === "chat" ? "chat/completions" : "completions";
  const lines = [`curl ${body.stream ? "-N " : ""}${quoted(`${base}/${path}`)}`, `-H 'Content-Type: application/json'`];
  if (keyed) lines.push(`-H "Authorization: Bearer $OPENAI_API_KEY"`);
  lines.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// Arguments that the `openai` client knows by name; the others travel in `extra_body`.
const SHARED = [
  "model", "temperature", "top_p", "seed", "max_tokens", "stop", "n", "presence_penalty", "frequency_penalty",
  "logprobs", "logit_bias", "user", "stream", "stream_options",
];
const KNOWN = {
  chat: new Set([...SHARED, "messages", "top_logprobs", "max_completion_tokens"]),
  completion: new Set([...SHARED, "prompt", "best_of", "echo", "suffix"]),
};

export function asPython({ mode, body }, base, keyed) {
  const chat = mode === "chat";
  const named = Object.entries(body).filter(([name]) => KNOWN[mode].has(name));
  const extra = Object.entries(body).filter(([name]) => !KNOWN[mode].has(name));
  if (extra.length) named.push(["extra_body", Object.fromEntries(extra)]);
  const text = chat ? (body.stream ? "choice.delta.content or \"\"" : "choice.message.content") : "choice.text";
  const use = body.stream
    ? ["for chunk in answer:", "    for choice in chunk.choices:", `        print(${text}, end="", flush=True)`, "print()"]
    : ["for choice in answer.choices:", `    print(${text})`];
  return [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(base)}, api_key=${keyed ? 'os.environ["OPENAI_API_KEY"]' : '"none"'})`,
    `answer = client.${chat ? "chat.completions" : "completions"}.create(`,
    ...named.map(([name, value]) => `    ${name}=${literal(value, 1)},`),
    ")",
    ...use,
    "",
  ].join("\n");
}

/** A JSON value as Python writes it. JSON's escapes in strings are Python's too. */
function literal(value, depth = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = Array.isArray(value)
    ? value.map((one) => literal(one, depth + 1))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const line = inner.join(", ");
  if (line.length <= 80 && !line.includes("\n")) return open + line + close;
  const pad = "    ".repeat(depth + 1);
  return `${open}\n${inner.map((one) => `${pad}${one},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
