// One exchange: what was asked, what came back, what it took.

import { Answer } from "./answer.js";
import { announce, el } from "./dom.js";
import { duration } from "./figures.js";

const FINISHES = {
  stop: "finished",
  length: "cut off at the token limit",
  abort: "ended by the server",
  error: "failed",
};

export class Turn {
  #input;
  #answers = [];
  #space = el("div", { class: "answers" });
  #foot = el("div", { class: "foot" });
  #doings;
  #started = 0;
  #first = 0;
  #last = 0;
  #usage = null;
  #ignored = null;

  /** `doings`: what the buttons do: `again(turn)`; `mark(param)` and `go(param)` a field of the settings; `mode` names the API. */
  constructor(text, mode, doings) {
    this.text = text;
    this.mode = mode;
    this.failed = false;
    this.#doings = doings;
    this.#input = el("div", { class: "input" });
    this.node = el("section", { class: `turn ${mode}`, "aria-label": "Exchange" }, this.#input, this.#space, this.#foot);
    this.#showInput();
  }

  /** What the first answer says; the context of what is asked next. */
  get answer() {
    return this.#answers[0]?.text ?? "";
  }

  begin(count) {
    this.failed = false;
    this.#usage = this.#ignored = null;
    this.#answers = Array.from({ length: count }, (_, at) => new Answer(count > 1 ? at + 1 : null));
    this.#space.replaceChildren(...this.#answers.map((answer) => answer.node));
    this.#foot.replaceChildren(el("span", { class: "waiting" }, "Waiting for the first token"));
    this.#started = performance.now();
    this.#first = this.#last = 0;
  }

  take(event) {
    if (event.ignored) this.#ignored = event.ignored;
    if (event.usage) this.#usage = event.usage;
    if (event.index === undefined || !this.#answers[event.index]) return;
    if (event.text || event.thinking || event.tokens?.length) {
      this.#last = performance.now();
      if (!this.#first) {
        this.#first = this.#last;
        this.#foot.replaceChildren();
      }
    }
    this.#answers[event.index].add(event);
  }

  /** The end: `error` if it failed, `stopped` if the person ended it, `streamed` if pieces had times of their own. */
  end({ error = null, stopped = false, streamed = true }) {
    for (const answer of this.#answers) answer.end();
    this.failed = error !== null && this.answer === "";
    const facts = error ? [] : this.#facts(stopped, streamed);
    this.#foot.replaceChildren(
      ...(error ? [this.#alert(error)] : []),
      ...(this.#ignored ? [el("p", { class: "note" }, `The server does not know and ignored: ${this.#ignored}`)] : []),
      el("span", { class: "facts" }, ...facts.map((fact) => el("span", {}, fact))),
      this.#actions(),
    );
    if (error) {
      for (const answer of this.#answers) if (answer.empty) answer.node.remove();
    } else announce(`Answer ${stopped ? "stopped" : "complete"}. ${facts.join(", ")}`);
  }

  #facts(stopped, streamed) {
    const facts = [];
    const finishes = new Set(this.#answers.map((answer) => FINISHES[answer.finish] ?? answer.finish ?? ""));
    facts.push(stopped ? "stopped" : [...finishes].filter(Boolean).join(", "));
    const total = (this.#last - this.#started) / 1000;
    if (this.#usage) {
      const { prompt_tokens: asked, completion_tokens: made, prompt_tokens_details: details } = this.#usage;
      facts.push(`${made} tokens for ${asked}${details?.cached_tokens ? ` (${details.cached_tokens} cached)` : ""}`);
      const seconds = streamed ? (this.#last - this.#first) / 1000 : total;
      const counted = streamed ? made - this.#answers.length : made; // the first ones end the wait, and take no time
      if (counted > 0 && seconds > 0) facts.push(`${(counted / seconds).toFixed(1)} tokens/s`);
    }
    if (this.#first) facts.push(streamed ? `first after ${duration((this.#first - this.#started) / 1000)}` : duration(total));
    return facts.filter(Boolean);
  }

  #alert(error) {
    const go = el("button", { type: "button", on: { click: () => this.#doings.go(error.param) } }, "Show the field");
    const found = error.param && this.#doings.mark(error.param);
    return el("div", { class: "alert", role: "alert" }, el("p", {}, error.message), found ? go : null);
  }

  #actions() {
    const copy = button("Copy", async (event) => {
      await navigator.clipboard.writeText(this.#answers.map((answer) => answer.text).join("\n\n"));
      event.target.textContent = "Copied";
      setTimeout(() => (event.target.textContent = "Copy"), 1500);
    });
    // Browsers give no clipboard to pages from elsewhere without TLS.
    const copyable = navigator.clipboard && this.answer;
    return el(
      "span",
      { class: "actions" },
      copyable ? copy : null,
      button("Edit", () => this.#showEditor()),
      button(this.failed ? "Try again" : "Regenerate", () => this.#doings.again(this)),
    );
  }

  #showInput() {
    this.#input.replaceChildren(el("div", { class: "input-text" }, this.text));
  }

  #showEditor() {
    const area = el("textarea", { "aria-label": "Edit and send again", rows: Math.min(12, this.text.split("\n").length + 1) });
    area.value = this.text;
    const send = () => {
      if (!area.value.trim()) return;
      this.text = area.value;
      this.#showInput();
      this.#doings.again(this);
    };
    const leave = () => this.#showInput();
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      }
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.#input.replaceChildren(
      area,
      el("div", { class: "actions" }, button("Send again", send), button("Cancel", leave)),
    );
    area.focus();
  }
}

const button = (name, click) => el("button", { type: "button", class: "quiet", on: { click } }, name);


