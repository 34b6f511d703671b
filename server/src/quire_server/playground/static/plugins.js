// What was chosen for every role, with its options, and what was rejected and why.

import { el } from "./dom.js";

export function pluginList(plugins) {
  if (!plugins.length) return el("p", { class: "aside" }, "None were chosen.");
  return el("ul", { class: "plugins" }, ...plugins.map(item));
}

function item({ role, chosen, distribution, version, options, rejected }) {
  const set = Object.entries(options ?? {});
  const head = [
    el("span", { class: "role" }, role),
    el("span", { class: "chosen" }, chosen ?? "none"),
    rejected.length ? el("span", { class: "count" }, `${rejected.length} rejected`) : null,
  ];
  return el("li", {}, el("details", {},
    el("summary", {}, ...head),
    chosen ? el("p", { class: "aside" }, `${distribution} ${version}`) : null,
    set.length
      ? el("dl", {}, ...set.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, JSON.stringify(value))]))
      : null,
    rejected.length
      ? el("ul", { class: "rejected" },
        ...rejected.map(({ name, reason }) => el("li", {}, el("strong", {}, name), ` ${reason}`)))
      : el("p", { class: "aside" }, "Nothing else was considered.")));
}
