// The exchanges of a mode, and the one request that may be under way.

import { announce } from "./dom.js";
import { generate } from "./generate.js";
import { Turn } from "./turn.js";

export class Conversation {
  #turns = { chat: [], completion: [] };
  #log;
  #settings;
  #model;
  #system;
  #go;
  #changed;
  #running = null;

  /**
   * `log`: element that shows the exchanges; `settings`: a Settings; `model`, `system`: functions that give the
   * model's name and the system prompt; `go`: shows a field of the settings;
   * `changed`: called when it starts, ends, fills or empties.
   */
  constructor({ log, settings, model, system, go, changed }) {
    this.mode = "chat";
    this.#log = log;
    this.#settings = settings;
    this.#model = model;
    this.#system = system;
    this.#go = go;
    this.#changed = changed;
  }

  get running() {
    return this.#running !== null;
  }

  get empty() {
    return this.#turns[this.mode].length === 0;
  }

  show(mode) {
    this.stop();
    this.mode = mode;
    this.#log.replaceChildren(...this.#turns[mode].map((turn) => turn.node));
    this.#changed();
  }

  clear() {
    this.stop();
    this.#turns[this.mode] = [];
    this.#log.replaceChildren();
    announce("Cleared");
    this.#changed();
  }

  stop() {
    this.#running?.abort();
  }

  /** The request that sending `text` would make; the last one again if it is empty. */
  request(text) {
    const turns = this.#turns[this.mode];
    const last = turns.at(-1);
    if (text) return this.#request(text, this.mode === "chat" ? turns : []);
    return this.#request(last?.text ?? "", this.mode === "chat" ? turns.slice(0, -1) : []);
  }

  send(text) {
    if (this.running) return;
    const turns = this.#turns[this.mode];
    if (turns.at(-1)?.failed) turns.pop().node.remove();
    const turn = new Turn(text, this.mode, {
      again: (one) => this.#again(one),
      mark: (param) => this.#settings.mark(param),
      go: this.#go,
    });
    turns.push(turn);
    this.#log.append(turn.node);
    this.#run(turn);
  }

  /** Ask again; in a chat, what came after is dropped, as it answered something else. */
  #again(turn) {
    if (this.running) return;
    const turns = this.#turns[turn.mode];
    if (turn.mode === "chat") for (const later of turns.splice(turns.indexOf(turn) + 1)) later.node.remove();
    this.#run(turn);
  }

  #request(text, before) {
    const body = { model: this.#model() };
    if (this.mode === "completion") body.prompt = text;
    else {
      const system = this.#system().trim();
      body.messages = [
        ...(system ? [{ role: "system", content: system }] : []),
        ...before.filter((turn) => !turn.failed).flatMap((turn) => [
          { role: "user", content: turn.text },
          { role: "assistant", content: turn.answer },
        ]),
        { role: "user", content: text },
      ];
    }
    return { mode: this.mode, body: { ...body, ...this.#settings.body() } };
  }

  async #run(turn) {
    const abort = new AbortController();
    this.#running = abort;
    this.#changed();
    const turns = this.#turns[turn.mode];
    let request = null;
    try {
      turn.begin(1);
      this.#scroll(true);
      request = this.#request(turn.text, turns.slice(0, turns.indexOf(turn)));
      if (request.body.n > 1) turn.begin(request.body.n);
      for await (const event of generate(request.mode, request.body, abort.signal)) {
        const pinned = this.#atEnd();
        turn.take(event);
        this.#scroll(pinned);
      }
      turn.end({ streamed: Boolean(request.body.stream) });
    } catch (error) {
      if (abort.signal.aborted) turn.end({ stopped: true });
      else turn.end({ error });
    }
    this.#scroll(this.#atEnd(160));
    this.#running = null;
    this.#changed();
  }

  #atEnd(slack = 48) {
    const space = this.#log.parentElement;
    return space.scrollHeight - space.scrollTop - space.clientHeight < slack;
  }

  #scroll(wanted) {
    const space = this.#log.parentElement;
    if (wanted) space.scrollTop = space.scrollHeight;
  }
}
