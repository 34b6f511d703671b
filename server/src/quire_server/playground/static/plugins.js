// What was chosen for every role and why, and what was rejected and why.

import { el } from "./dom.js";

export function pluginList(plugins) {
  if (!plugins.length) return el("p", { class: "aside" }, "None were chosen.");
  return el("ul", { class: "plugins" }, ...plugins.map(item));
}

function item({ role, chosen, version, reason, rejected }) {
  const head = [
    el("span", { class: "role" }, role),
    el("span", { class: "chosen" }, chosen),
    rejected.length ? el("span", { class: "count" }, `${rejected.length} rejected`) : null,
  ];
  return el("li", {}, el("details", {},
    el("summary", {}, ...head),
    el("p", {}, reason),
    version ? el("p", { class: "aside" }, `Version ${version}`) : null,
    rejected.length
      ? el("ul", { class: "rejected" },
        ...rejected.map(({ name, reason }) => el("li", {}, el("strong", {}, name), ` ${reason}`)))
      : el("p", { class: "aside" }, "Nothing else was considered.")));
}
