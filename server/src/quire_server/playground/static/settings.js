// The form for a request's fields: shows defaults, what differs from them, and ways back.

import { byId, el, remember, remembered } from "./dom.js";
import { FIELDS, GROUPS, preset, standard, toBody } from "./fields.js";

export class Settings {
  #root;
  #mode = "chat";
  #values;
  #suggested = {};

  constructor(root) {
    this.#root = root;
    this.#values = remembered("settings", { chat: {}, completion: {} });
  }

  /** Show the fields of a mode. */
  show(mode) {
    this.#mode = mode;
    this.#root.replaceChildren(
      ...GROUPS.filter((group) => !group.mode || group.mode === mode).map((group) => this.#group(group)),
    );
    this.#mark();
  }

  /** Defaults that the model suggests, shown in place of the API's. */
  suggest(defaults) {
    if (JSON.stringify(defaults) === JSON.stringify(this.#suggested)) return;
    this.#suggested = defaults;
    for (const field of FIELDS.values()) this.#show(field);
  }

  /** The body's fields. Throws FieldError. */
  body() {
    const values = {};
    for (const field of FIELDS.values()) values[field.name] = this.#value(field);
    return toBody(values, this.#mode);
  }

  /** Back to what the page starts with. */
  reset() {
    this.#values[this.#mode] = {};
    this.#save();
    for (const field of FIELDS.values()) this.#show(field);
  }

  /** Mark a field that the server or the page refuses; false if none of the name is shown. */
  mark(name) {
    const input = byId(`field-${name}`);
    if (!input || !this.#root.contains(input)) return false;
    input.closest("details").open = true;
    input.setAttribute("aria-invalid", "true");
    return true;
  }

  focus(name) {
    byId(`field-${name}`).focus();
  }

  #value(field) {
    return this.#values[this.#mode][field.name] ?? preset(field, this.#mode);
  }

  #standard(field) {
    return this.#suggested[field.name] ?? standard(field, this.#mode);
  }

  #set(field, value) {
    if (value === preset(field, this.#mode)) delete this.#values[this.#mode][field.name];
    else this.#values[this.#mode][field.name] = value;
    this.#save();
    this.#show(field);
  }

  #save() {
    remember("settings", this.#values);
    this.#mark();
  }

  /** Count what differs, per group and in all. */
  #mark() {
    const changed = this.#values[this.#mode];
    for (const details of this.#root.querySelectorAll("details")) {
      const count = [...details.querySelectorAll("[data-field]")].filter((row) => row.dataset.field in changed);
      details.querySelector(".count").textContent = count.length ? `${count.length} changed` : "";
    }
    byId("reset").disabled = Object.keys(changed).length === 0;
  }

  #group(group) {
    return el(
      "details",
      { class: "group", open: group.open },
      el("summary", {}, el("span", {}, group.title), el("span", { class: "count" })),
      el("div", { class: "fields" }, ...group.fields.map((field) => this.#row(field))),
    );
  }

  #row(field) {
    const id = `field-${field.name}`;
    const undo = el("button", {
      type: "button",
      class: "undo",
      title: "Back to the default",
      "aria-label": `${field.label}: back to the default`,
      on: {
        click: () => {
          this.#set(field, preset(field, this.#mode));
          byId(id).focus();
        },
      },
    }, "↺");
    const label = el("label", { for: id, title: field.hint }, field.label);
    const row = el("div", { class: `row ${field.kind}`, data: { field: field.name } });
    const input = this.#input(field, id);
    row.append(el("span", { class: "name" }, label, undo), input);
    if (field.slider) row.append(this.#slider(field, input));
    this.#show(field, row);
    return row;
  }

  #input(field, id) {
    const common = { id, "aria-description": field.hint, autocomplete: "off", spellcheck: "false" };
    const change = (event) => this.#set(field, event.target.value);
    if (field.kind === "flag") {
      const toggle = (event) => this.#set(field, event.target.checked);
      return el("input", { ...common, type: "checkbox", class: "switch", role: "switch", on: { change: toggle } });
    }
    if (field.kind === "real" || field.kind === "integer") {
      return el("input", { ...common, type: "text", inputmode: "decimal", on: { input: change } });
    }
    return el("textarea", { ...common, rows: 2, placeholder: field.placeholder, on: { input: change } });
  }

  #slider(field, input) {
    const [min, max, step] = field.slider;
    return el("input", {
      type: "range", min, max, step,
      "aria-label": field.label,
      on: { input: (event) => {
        input.removeAttribute("aria-invalid");
        this.#set(field, event.target.value);
      } },
    });
  }

  #show(field, row = this.#root.querySelector(`[data-field="${field.name}"]`)) {
    if (!row) return;
    const value = this.#value(field);
    const input = row.querySelector("input:not([type=range]), textarea");
    input.removeAttribute("aria-invalid");
    row.classList.toggle("changed", field.name in this.#values[this.#mode]);
    if (field.kind === "flag") {
      input.checked = value;
      return;
    }
    if (input.value !== value) input.value = value;
    if (field.kind === "real" || field.kind === "integer") input.placeholder = this.#standard(field);
    const slider = row.querySelector("[type=range]");
    if (!slider) return;
    slider.value = value === "" ? this.#standard(field) : value;
    slider.style.setProperty("--at", `${((slider.value - slider.min) / (slider.max - slider.min)) * 100}%`);
  }
}
