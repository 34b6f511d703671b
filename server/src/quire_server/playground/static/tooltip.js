// What a token's place could have held, shown beside it on hover and focus.

import { byId, el } from "./dom.js";
import { percent, visible } from "./tokens.js";

const known = new WeakMap(); // element -> its tokens

/** Remember what to show for an element. */
export function explain(node, tokens) {
  known.set(node, tokens);
}

/** Watch a region for elements that have been explained. */
export function watch(region) {
  const show = (event) => {
    const token = event.target.closest?.(".token");
    if (token) open(token);
  };
  region.addEventListener("pointerover", show);
  region.addEventListener("focusin", show);
  region.addEventListener("pointerout", (event) => {
    if (event.target.closest?.(".token") !== document.activeElement) close();
  });
  region.addEventListener("focusout", close);
  region.addEventListener("scroll", follow, { passive: true, capture: true });
  region.addEventListener("keydown", walk);
}

export function close() {
  const tip = byId("tooltip");
  tip.hidden = true;
  document.querySelector("[aria-describedby=tooltip]")?.removeAttribute("aria-describedby");
}

/** Reaching a token by key may scroll: its description moves along. One under the pointer has moved away. */
function follow() {
  if (known.has(document.activeElement)) open(document.activeElement);
  else close();
}

function open(node) {
  close();
  const tip = byId("tooltip");
  tip.replaceChildren(...known.get(node).map(description));
  node.setAttribute("aria-describedby", "tooltip");
  tip.hidden = false;
  const [at, size] = [node.getClientRects()[0] ?? node.getBoundingClientRect(), tip.getBoundingClientRect()];
  const left = Math.max(8, Math.min(at.left, innerWidth - size.width - 8));
  const below = at.bottom + 6 + size.height <= innerHeight;
  tip.style.left = `${left}px`;
  tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - size.height - 6)}px`;
}

function description(token) {
  if (token.logprob === null) return el("p", {}, code(token.text), " has no probability: it comes first.");
  const others = token.top.filter(([text]) => text !== token.text);
  const rows = [[token.text, token.logprob], ...others].sort(([, one], [, other]) => other - one);
  return el(
    "table",
    {},
    el("caption", {}, code(token.text), ` ${percent(token.logprob)}, logprob ${token.logprob.toFixed(2)}`),
    ...rows.map(([text, logprob]) => {
      const bar = el("span", { class: "bar-inner" });
      bar.style.width = `${Math.exp(logprob) * 100}%`;
      return el(
        "tr",
        { class: text === token.text ? "taken" : null },
        el("td", {}, code(text)),
        el("td", { class: "bar-cell" }, bar),
        el("td", { class: "number" }, percent(logprob)),
      );
    }),
  );
}

const code = (text) => el("code", {}, visible(text));

/** Arrow keys go from token to token; the answer itself is one stop of the Tab key. */
function walk(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const text = event.target.closest?.(".answer-text");
  if (!step || !text || event.altKey || event.ctrlKey || event.metaKey) return;
  const tokens = [...text.children].filter((node) => known.has(node));
  const at = tokens.indexOf(event.target);
  const next = tokens[at < 0 ? (step > 0 ? 0 : tokens.length - 1) : at + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
