// One answer as it grows: text to the letter, cut into tokens where their probabilities are known. What was thought
// before it stands above it, open until the answer begins.

import { el } from "./dom.js";
import { Cutter, surprise } from "./tokens.js";
import { explain } from "./tooltip.js";

export class Answer {
  #cutter = new Cutter();
  #tail = document.createTextNode("");
  #space;
  #thinking = null;
  #thoughts = document.createTextNode("");

  /** `number`: shown where a prompt has several answers. */
  constructor(number = null) {
    this.text = "";
    this.finish = null;
    this.#space = el("div", { class: "answer-text" }, this.#tail);
    this.node = el(
      "article",
      { class: "answer", "aria-label": number === null ? "Answer" : `Answer ${number}`, "aria-busy": "true" },
      number === null ? null : el("span", { class: "answer-number" }, String(number)),
      this.#space,
    );
  }

  /** Nothing has come: neither text nor thinking. */
  get empty() {
    return !this.text && !this.#thinking;
  }

  add({ text, thinking, tokens, finish }) {
    if (thinking) this.#think(thinking);
    if (text && !this.text && this.#thinking) this.#thinking.open = false;
    this.text += text;
    this.finish = finish ?? this.finish;
    this.#place(this.#cutter.add(text, thinking && !text ? null : tokens)); // thoughts are not coloured
    this.#tail.data = this.#cutter.tail;
  }

  end() {
    this.#place(this.#cutter.finish());
    this.#tail.data = "";
    this.node.removeAttribute("aria-busy");
  }

  #think(text) {
    if (!this.#thinking) {
      this.#thinking = el("details", { class: "thinking", open: true }, el("summary", {}, "Thinking"), el("div", {}, this.#thoughts));
      this.#space.before(this.#thinking);
    }
    this.#thoughts.data += text;
  }

  #place(pieces) {
    for (const { text, tokens } of pieces) this.#tail.before(tokens.length ? this.#token(text, tokens) : text);
  }

  #token(text, tokens) {
    if (!this.#space.hasAttribute("tabindex")) {
      this.#space.tabIndex = 0;
      this.#space.setAttribute("role", "group");
      this.#space.setAttribute("aria-label", "Text of the answer; the left and right arrow keys go through its tokens");
    }
    const least = tokens.reduce((low, one) => Math.min(low, one.logprob ?? 0), 0);
    // The space before a word is not coloured: where the line breaks, it would stand alone at its end.
    const word = text.trimStart() || text;
    const space = text.slice(0, text.length - word.length);
    const blank = word.trim() === "";
    const inner = el("span", { class: blank ? "word blank" : "word", data: { surprise: surprise(least) } }, word);
    const node = el("span", { class: "token", tabindex: -1 }, space, inner);
    explain(node, tokens);
    return node;
  }
}
