// The live view of the engine: asks once a second while it can be seen, and shows what it is told.

import { call, requestKey } from "./api.js";
import { el } from "./dom.js";
import { bytes, count, duration, rate, share } from "./figures.js";
import { pluginList } from "./plugins.js";
import { sparkline } from "./sparkline.js";

const PERIOD = 1000; // milliseconds
const HISTORY = 90; // samples

const HEALTH = {
  ready: "Ready",
  loading: "Loading the model",
  stalled: "Does not respond",
  dead: "Has died",
};

export class EngineView {
  #root;
  #told;
  #wanted = false;
  #timer = null;
  #asking = false;
  #last = null;
  #history = [];
  #plugins = "";
  #pluginsNode = el("div");

  /** `told`: called with every new state. */
  constructor(root, told) {
    this.#root = root;
    this.#told = told;
    document.addEventListener("visibilitychange", () => this.#turn());
  }

  /** Start or stop asking. */
  watch(wanted) {
    this.#wanted = wanted;
    this.#turn();
  }

  /** Ask once, looked at or not. */
  look() {
    this.#ask();
  }

  #turn() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#wanted && !document.hidden) this.#ask();
    else this.#last = null; // rates over a pause would be of the past
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    let again = true;
    try {
      const view = await (await call("quire/engine")).json();
      this.#show(view);
      this.#told(view);
    } catch (error) {
      this.#last = null;
      again = this.#fail(error);
    }
    this.#asking = false;
    if (again && this.#wanted && !document.hidden) this.#timer = setTimeout(() => this.#ask(), PERIOD);
  }

  /** Say what is wrong. False where asking again would change nothing. */
  #fail(error) {
    const final = error.status === 404 || error.status === 401;
    const message = error.status === 404 ? "This server gives no view of its engine." : error.message;
    const retry = el("button", { type: "button", class: "quiet", on: { click: requestKey } }, "Give a key");
    this.#root.replaceChildren(el("p", { class: "alert" }, message), ...(error.status === 401 ? [retry] : []));
    return !final;
  }

  #rates(view) {
    const last = this.#last;
    this.#last = view;
    const seconds = view.time - last?.time;
    if (!(seconds > 0)) return null; // the first view, or the engine's machine was restarted
    const since = (name) => Math.max(0, view.tokens[name] - last.tokens[name]) / seconds; // 0: the engine was
    return { generation: since("generation"), prompt: since("prompt") };
  }

  #show(view) {
    const rates = this.#rates(view);
    if (rates) this.#history = [...this.#history, rates.generation].slice(-HISTORY);
    const { requests, kv, prefix_cache: prefix, latency, steps, model } = view;
    this.#showPlugins(view.plugins);
    this.#root.replaceChildren(
      el("p", { class: `health ${view.draining ? "draining" : view.health}` },
        view.draining ? "About to stop; takes nothing new" : HEALTH[view.health] ?? view.health),
      el("p", { class: "big" }, rates ? rate(rates.generation) : "–", el("span", {}, "tokens/s")),
      sparkline(this.#history, HISTORY),
      el("p", { class: "aside" }, `and ${rates ? rate(rates.prompt) : "–"} tokens/s of prompts`),
      section("Requests", facts([
        ["Running", `${requests.running} of ${model.max_num_seqs}`],
        ["Waiting", count(requests.waiting)],
        ["Preempted", count(requests.preemptions)],
      ])),
      section("KV blocks", ...kv.groups.map((group, at) => blocks(group, kv.groups.length > 1 ? at : null, kv.block_size))),
      section("Latency", latencies(latency), facts([
        ["Step", steps.count ? `${(steps.seconds / steps.count * 1000).toFixed(1)} ms on average` : "–"],
        ["Prefix hits", prefix.enabled ? share(prefix.hits, prefix.queries) : "off"],
      ])),
      section("Model", facts([
        ["Name", [model.name, ...model.aliases].join(", ")],
        ["Architecture", model.architecture],
        ["Parameters", count(model.num_parameters)],
        ["Runs in", `${model.dtype} on ${model.device}`],
        ["Context", `${count(model.max_model_len)} tokens`],
        ["Weights", bytes(model.weights_bytes)],
        ["KV cache", bytes(kv.bytes)],
      ])),
      this.#pluginsNode,
    );
  }

  /** Only when they change, so that what a person has opened stays open. */
  #showPlugins(plugins) {
    const text = JSON.stringify(plugins);
    if (text === this.#plugins) return;
    this.#plugins = text;
    this.#pluginsNode = section("Plugins", pluginList(plugins));
  }
}

const section = (title, ...children) => el("section", {}, el("h3", {}, title), ...children);

const facts = (pairs) =>
  el("dl", {}, ...pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));

function blocks({ total, used, cached, free }, group, size) {
  const parts = [["used", used], ["cached", cached], ["free", free]];
  const words = parts.map(([name, number]) => `${count(number)} ${name}`).join(", ");
  const bar = el("div", { class: "blocks", role: "img", "aria-label": `${words}, of ${count(total)} blocks` });
  for (const [name, number] of parts.filter(([, number]) => number > 0)) {
    const part = el("span", { class: name });
    part.style.flexGrow = number;
    bar.append(part);
  }
  return el("div", { class: "kv" },
    group === null ? null : el("p", { class: "aside" }, `Group ${group}`),
    bar,
    el("ul", { class: "legend" }, ...parts.map(([name, number]) => el("li", { class: name }, `${count(number)} ${name}`))),
    el("p", { class: "aside" }, `${count(total)} blocks of ${size} tokens`));
}

function latencies(latency) {
  const row = (name, hint, recent) =>
    el("tr", {}, el("th", { scope: "row" }, el("abbr", { title: hint }, name)), el("td", {}, time(recent?.p50)), el("td", {}, time(recent?.p99)));
  return el("table", { class: "latency" },
    el("thead", {}, el("tr", {}, el("td"), el("th", { scope: "col" }, "p50"), el("th", { scope: "col" }, "p99"))),
    el("tbody", {},
      row("TTFT", "Time to the first token, over recent requests", latency.ttft),
      row("ITL", "Time between tokens, over recent requests", latency.itl)));
}

const time = (seconds) => (seconds === undefined ? "–" : duration(seconds));
