// Elements from plain data. Text always becomes text nodes: nothing here, or anywhere, parses markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/**
 * An element.
 *
 * `props`: `class`, `data` (dataset), `on` (listeners), booleans (present or absent); anything else is an
 * attribute, left out if null. `children`: nodes and strings; null is skipped.
 */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "data") Object.assign(node.dataset, value);
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Say something to screen readers. */
export function announce(text) {
  byId("status").textContent = text;
}

/** What the browser remembers under `name`, or `otherwise`. */
export function remembered(name, otherwise) {
  try {
    const text = localStorage.getItem(`quire.${name}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`quire.${name}`, JSON.stringify(value));
  } catch {
    // Forbidden or full: the page works without a memory.
  }
}
