// One request for text, as a sequence of plain events, whichever of the two APIs answers it.

import { call, events } from "./api.js";

export const PATHS = { chat: "v1/chat/completions", completion: "v1/completions" };

/**
 * Yields `{ignored}` once if the server ignored fields, then any number of
 * `{index, text, thinking, tokens, finish}` and `{usage}`.
 */
export async function* generate(mode, body, signal) {
  const response = await call(PATHS[mode], { body, signal });
  const ignored = response.headers.get("X-Quire-Ignored-Fields");
  if (ignored) yield { ignored };
  if (!body.stream) {
    yield* parts(mode, await response.json(), "message");
    return;
  }
  for await (const event of events(response)) yield* parts(mode, event, "delta");
}

function* parts(mode, answer, holder) {
  for (const choice of answer.choices ?? []) {
    const said = choice[holder];
    yield {
      index: choice.index,
      text: (mode === "chat" ? said?.content : choice.text) ?? "",
      thinking: said?.reasoning_content ?? said?.reasoning ?? "",
      tokens: mode === "chat" ? chatTokens(choice.logprobs) : completionTokens(choice.logprobs),
      finish: choice.finish_reason ?? null,
    };
  }
  if (answer.usage) yield { usage: answer.usage };
}

/** Tokens as `{text, bytes, logprob, top: [[text, logprob], ...]}`; null where none were asked for. */
export function chatTokens(logprobs) {
  if (!logprobs?.content) return null;
  return logprobs.content.map((one) => ({
    text: one.token,
    bytes: one.bytes ?? null,
    logprob: one.logprob,
    top: (one.top_logprobs ?? []).map((other) => [other.token, other.logprob]),
  }));
}

export function completionTokens(logprobs) {
  if (!logprobs?.tokens) return null;
  return logprobs.tokens.map((text, at) => ({
    text,
    bytes: null,
    logprob: logprobs.token_logprobs?.[at] ?? null, // the first token of an echoed prompt has none
    top: Object.entries(logprobs.top_logprobs?.[at] ?? {}),
  }));
}
