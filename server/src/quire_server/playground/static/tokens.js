// Cuts text into pieces that carry their tokens' probabilities.
//
// The text is what counts, and is kept to the letter. Tokens need not line up with it: a character may
// take several, a stop string is cut off, a special token shows nothing. Knows no page.

const decoder = new TextDecoder("utf-8", { fatal: true });
const PATIENCE = 16; // tokens that may wait for a match before the text goes out in one piece
const REACH = 8; // tokens that one piece may need: a character has at most four bytes

export class Cutter {
  #tail = "";
  #waiting = [];

  /** Text that no piece holds yet. */
  get tail() {
    return this.#tail;
  }

  /** Take what came in; returns the finished pieces, `{text, tokens}`. */
  add(text, tokens) {
    this.#tail += text;
    if (tokens) this.#waiting.push(...tokens);
    const pieces = [];
    for (let piece = this.#next(); piece !== null; piece = this.#next()) pieces.push(piece);
    if (this.#waiting.length > PATIENCE && this.#tail) pieces.push(this.#rest());
    return pieces;
  }

  /** The end: whatever is left, as a piece or none. */
  finish() {
    const pieces = this.#tail ? [this.#rest()] : [];
    this.#waiting = [];
    return pieces;
  }

  /** The piece of the fragments at `from`: all text up to the token after them. */
  #fragments(from) {
    let to = from;
    while (to < this.#waiting.length && isFragment(this.#waiting[to])) to++;
    const end = to < this.#waiting.length ? this.#tail.indexOf(this.#waiting[to].text, 1) : -1;
    if (end < 0) return null; // still to come
    const text = this.#tail.slice(0, end);
    this.#tail = this.#tail.slice(end);
    return { text, tokens: this.#waiting.splice(0, to).slice(from) };
  }

  #rest() {
    const piece = { text: this.#tail, tokens: this.#waiting };
    this.#tail = "";
    this.#waiting = [];
    return piece;
  }

  #next() {
    if (!this.#tail) return null;
    // Tokens that show nothing are passed over only when those after them match.
    for (let from = 0; from < this.#waiting.length; from++) {
      if (isFragment(this.#waiting[from])) return this.#fragments(from);
      for (let to = from + 1; to <= Math.min(this.#waiting.length, from + REACH); to++) {
        const text = joined(this.#waiting.slice(from, to));
        if (text && this.#tail.startsWith(text)) {
          this.#tail = this.#tail.slice(text.length);
          return { text, tokens: this.#waiting.splice(0, to).slice(from) };
        }
        if (text?.startsWith(this.#tail)) return null; // the rest of this token is still to come
      }
    }
    return null;
  }
}

/** Part of a character, with no word on its bytes: only what follows it tells how far it reaches. */
const isFragment = (token) => !token.bytes && token.text.includes("\ufffd");

function joined(tokens) {
  if (tokens.every((token) => token.bytes)) {
    try {
      return decoder.decode(new Uint8Array(tokens.flatMap((token) => token.bytes)));
    } catch {
      return null; // part of a character
    }
  }
  return tokens.map((token) => token.text).join("");
}

const BOUNDS = [0.7, 0.4, 0.15, 0.04];

/** How likely, in classes that the style sheet colours: 0 is likely, 4 is a surprise. */
export function surprise(logprob) {
  const at = BOUNDS.findIndex((bound) => Math.exp(logprob) >= bound);
  return at < 0 ? BOUNDS.length : at;
}

/** A probability as people read it. */
export function percent(logprob) {
  const p = Math.exp(logprob) * 100;
  if (p >= 99.95) return "100 %";
  if (p >= 0.1) return `${p.toFixed(1)} %`;
  return p >= 0.001 ? `${p.toPrecision(1)} %` : "< 0.001 %";
}

/** A token's text with what cannot be seen made visible. */
export function visible(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "␣") || "∅";
}
