// What can be set about a request: one entry per field of the two APIs. Plain data, and how a field's text
// becomes a value. Knows no page.
//
// `preset` is what the page starts with where it differs from the API's `standard`. An empty field is not sent.

const real = (name, label, standard, hint, more = {}) => ({ name, label, standard, hint, kind: "real", ...more });
const integer = (name, label, standard, hint, more = {}) => ({ name, label, standard, hint, kind: "integer", ...more });
const flag = (name, label, standard, hint, more = {}) => ({ name, label, standard, hint, kind: "flag", ...more });
const text = (name, label, kind, hint, more = {}) => ({ name, label, hint, kind, standard: "", ...more });

export const GROUPS = [
  {
    title: "Sampling",
    open: true,
    fields: [
      real("temperature", "Temperature", 1, "0 always takes the most likely token; higher is more varied.", {
        slider: [0, 2, 0.05],
      }),
      real("top_p", "Top-p", 1, "Only the most likely tokens that together reach this probability.", {
        slider: [0, 1, 0.01],
      }),
      real("min_p", "Min-p", 0, "Only tokens at least this many times as likely as the most likely one.", {
        slider: [0, 1, 0.01],
      }),
      integer("top_k", "Top-k", 0, "Only the k most likely tokens; 0 for all.", { min: -1 }),
      integer("seed", "Seed", "random", "The same seed and request give the same answer."),
    ],
  },
  {
    title: "Length",
    open: true,
    fields: [
      integer("max_tokens", "Max tokens", "all that fit", "Most tokens of an answer.", {
        min: 1,
        preset: { completion: "128" },
        standardIn: { completion: 16 },
      }),
      integer("min_tokens", "Min tokens", 0, "No end before this many tokens.", { min: 0 }),
      text("stop", "Stop at", "lines", "Strings that end the answer, one a line; \\n stands for a line break.", {
        placeholder: "one a line",
      }),
      flag("include_stop_str_in_output", "Keep the stop string", false, "Show the string that ended the answer."),
      flag("ignore_eos", "Ignore end of text", false, "Go on after the model's end token."),
    ],
  },
  {
    title: "Thinking",
    mode: "chat",
    fields: [
      integer("thinking_token_budget", "Thinking budget", "any", "Tokens of thinking after which the answer follows; 0 for none.", {
        min: 0,
      }),
    ],
  },
  {
    title: "Repetition",
    fields: [
      real("presence_penalty", "Presence", 0, "Lowers every token that the answer holds already.", {
        slider: [-2, 2, 0.05],
      }),
      real("frequency_penalty", "Frequency", 0, "Lowers tokens by how often the answer holds them.", {
        slider: [-2, 2, 0.05],
      }),
      real("repetition_penalty", "Repetition", 1, "Above 1 lowers tokens of prompt and answer.", {
        slider: [0.5, 2, 0.01],
      }),
    ],
  },
  {
    title: "Probabilities",
    fields: [
      flag("logprobs", "Show token probabilities", false, "Ask for the probability of every token.", {
        preset: { chat: true, completion: true },
      }),
      integer("top_logprobs", "Alternatives", 0, "Most likely tokens named at each place.", {
        min: 0,
        max: 20,
        preset: { chat: "5", completion: "5" },
      }),
    ],
  },
  {
    title: "Completions",
    mode: "completion",
    fields: [
      integer("n", "Completions", 1, "Answers to the same prompt.", { min: 1 }),
      integer("best_of", "Best of", "as many", "Run so many, give the likeliest; needs streaming off.", { min: 1 }),
      flag("echo", "Echo the prompt", false, "Give the prompt back before the answer, with its probabilities."),
    ],
  },
  {
    title: "Tokens",
    fields: [
      text("logit_bias", "Logit bias", "bias", "A token id and what is added to its logit, one pair a line.", {
        placeholder: "token id: bias",
      }),
      text("allowed_token_ids", "Allowed token ids", "ids", "Only these are sampled.", { placeholder: "1, 2, 3" }),
      text("stop_token_ids", "Stop token ids", "ids", "Token ids that end the answer.", { placeholder: "1, 2, 3" }),
      text("bad_words", "Forbidden words", "lines", "Strings that never appear, one a line.", {
        placeholder: "one a line",
      }),
      flag("skip_special_tokens", "Hide special tokens", true, "Leave special tokens out of the text."),
    ],
  },
  {
    title: "Request",
    fields: [
      flag("stream", "Stream", false, "Show the answer as it is made.", { preset: { chat: true, completion: true } }),
      text("other", "Other fields", "object", "Anything else for the request, as a JSON object.", {
        placeholder: '{"priority": 0}',
      }),
    ],
  },
];

export const FIELDS = new Map(GROUPS.flatMap((group) => group.fields.map((field) => [field.name, field])));

/** What the page starts with: text, or a truth value for flags. */
export const preset = (field, mode) => field.preset?.[mode] ?? (field.kind === "flag" ? field.standard : "");

/** What the server takes for a field that is not sent. */
export const standard = (field, mode) => field.standardIn?.[mode] ?? field.standard;

/** A field's text makes no sense. */
export class FieldError extends Error {
  constructor(field, message) {
    super(`${field.label}: ${message}`);
    this.param = field.name;
  }
}

const unescaped = (line) => line.replace(/\\([nt\\])/g, (_, char) => ({ n: "\n", t: "\t", "\\": "\\" })[char]);

const READERS = {
  real: (field, value) => number(field, value),
  integer: (field, value) => {
    // Seeds have 64 bits, JavaScript's numbers 53: larger ones would be changed on the way.
    if (!/^[+-]?\d+$/.test(value.trim())) throw new FieldError(field, `“${value}” is not a whole number.`);
    if (!Number.isSafeInteger(Number(value))) throw new FieldError(field, `${value} is too large for this page.`);
    return Number(value);
  },
  lines: (field, value) => value.split("\n").filter(Boolean).map(unescaped),
  ids: (field, value) => value.split(/[\s,]+/).filter(Boolean).map((id) => READERS.integer(field, id)),
  bias: (field, value) => {
    const biases = {};
    for (const line of value.split("\n").filter((one) => one.trim())) {
      const parts = line.split(":");
      if (parts.length !== 2) throw new FieldError(field, `“${line}” is not of the form “token id: bias”.`);
      biases[READERS.integer(field, parts[0].trim())] = number(field, parts[1]);
    }
    return biases;
  },
  object: (field, value) => {
    let parsed;
    try {
      parsed = JSON.parse(value);
    } catch {
      throw new FieldError(field, "this is not JSON.");
    }
    if (parsed === null || typeof parsed !== "object" || Array.isArray(parsed)) {
      throw new FieldError(field, "this is not a JSON object.");
    }
    return parsed;
  },
};

function number(field, value) {
  const text = value.trim().replace(",", ".");
  if (text === "" || !Number.isFinite(Number(text))) throw new FieldError(field, `“${value}” is not a number.`);
  return Number(text);
}

/**
 * The fields of a request body.
 *
 * `values`: a field's name -> text or truth value. Throws FieldError.
 */
export function toBody(values, mode) {
  const body = {};
  for (const group of GROUPS) {
    if (group.mode && group.mode !== mode) continue;
    for (const field of group.fields) {
      const value = values[field.name];
      if (field.kind === "flag") {
        if (value !== field.standard) body[field.name] = value;
      } else if (value.trim() !== "") body[field.name] = READERS[field.kind](field, value);
    }
  }
  const { other, top_logprobs: top, ...rest } = body;
  // Chats say whether and how many in two fields, completions in one.
  if (rest.logprobs && mode === "chat" && top) rest.top_logprobs = top;
  if (rest.logprobs && mode === "completion") rest.logprobs = top ?? 0;
  if (rest.stream) rest.stream_options = { include_usage: true };
  return { ...rest, ...other };
}
