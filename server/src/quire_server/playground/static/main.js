// Wires the page together: modes, composer, panels, keys, theme.

import { call } from "./api.js";
import { Conversation } from "./conversation.js";
import { askForKeys, showCode } from "./dialogs.js";
import { announce, byId, el, remember, remembered } from "./dom.js";
import { EngineView } from "./engine.js";
import { FieldError } from "./fields.js";
import { Settings } from "./settings.js";
import * as tooltip from "./tooltip.js";

const root = document.documentElement;
const composer = byId("composer-text");
const settings = new Settings(byId("settings-form"));
const engine = new EngineView(byId("engine-body"), (view) => settings.suggest(view.model.sampling_defaults));
const conversation = new Conversation({
  log: byId("log"),
  settings,
  model: () => byId("model").value,
  system: () => byId("system-text").value,
  go: showField,
  changed: refresh,
});
const drafts = { chat: "", completion: "" };

const HINTS = {
  chat: ["Ask something", "Answers stream in below. Hover over a word, or walk through it with the arrow keys, to see what else it could have been."],
  completion: ["Begin a text", "The model goes on where your text ends. The text stays in the box, to be changed and run again."],
};

function refresh() {
  root.dataset.mode = conversation.mode;
  root.dataset.running = conversation.running;
  byId("send").hidden = conversation.running;
  byId("stop").hidden = !conversation.running;
  byId("clear").disabled = conversation.empty;
  byId("empty").hidden = !conversation.empty;
  const [title, words] = HINTS[conversation.mode];
  byId("empty").replaceChildren(el("h2", {}, title), el("p", {}, words));
}

function setMode(mode) {
  drafts[conversation.mode] = composer.value;
  settings.show(mode);
  conversation.show(mode);
  composer.value = drafts[mode];
  composer.placeholder = mode === "chat" ? "Message" : "Text to go on from";
  composer.setAttribute("aria-label", composer.placeholder);
  byId("send").textContent = mode === "chat" ? "Send" : "Run";
  remember("mode", mode);
  fit(composer);
}

function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

async function send() {
  const text = composer.value;
  if (!text.trim() || conversation.running) return;
  if (!hasModels() && !(await loadModels())) return; // the server was not there, or the key not given, before
  if (conversation.mode === "chat") {
    composer.value = "";
    fit(composer);
  }
  conversation.send(text);
}

function code() {
  try {
    showCode(conversation.request(composer.value));
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    showField(error.param);
    announce(error.message);
  }
}

function showField(name) {
  panel("settings", true);
  settings.mark(name);
  settings.focus(name);
}

// Panels: side by side where there is room, one at a time over the page where there is not.
const narrow = matchMedia("(max-width: 1100px)");

function panel(name, open) {
  const other = name === "settings" ? "engine" : "settings";
  show(name, open);
  if (open && narrow.matches) show(other, false);
  if (!narrow.matches) remember(`panel.${name}`, open);
}

function show(name, open) {
  root.dataset[name] = open ? "open" : "closed";
  byId(name).hidden = !open;
  byId(`toggle-${name}`).setAttribute("aria-expanded", open);
  if (name === "engine") engine.watch(open);
}

function arrange() {
  for (const name of ["settings", "engine"]) show(name, !narrow.matches && remembered(`panel.${name}`, true));
}

const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

function setTheme(theme) {
  root.dataset.theme = theme;
  byId("theme").setAttribute("aria-label", THEMES[theme]);
  byId("theme").title = THEMES[theme];
  remember("theme", theme);
}

/** Fill the list of models; false, and a word on why, if the server gives none. */
async function loadModels() {
  const problem = byId("problem");
  try {
    const list = await (await call("v1/models")).json();
    byId("model").replaceChildren(...list.data.map((model) => el("option", { value: model.id }, model.id)));
    problem.hidden = true;
    return true;
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
    return false;
  }
}

const hasModels = () => byId("model").options.length > 0;

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
composer.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
for (const area of [composer, byId("system-text")]) area.addEventListener("input", () => fit(area));
byId("stop").addEventListener("click", () => {
  conversation.stop();
  composer.focus();
});
byId("clear").addEventListener("click", () => {
  conversation.clear();
  composer.focus();
});
byId("code").addEventListener("click", code);
byId("reset").addEventListener("click", () => settings.reset());
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => setMode(radio.value));
}
for (const name of ["settings", "engine"]) {
  byId(`toggle-${name}`).addEventListener("click", () => panel(name, root.dataset[name] !== "open"));
  byId(`close-${name}`).addEventListener("click", () => {
    panel(name, false);
    byId(`toggle-${name}`).focus();
  });
}
byId("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(root.dataset.theme) + 1) % names.length]);
  announce(THEMES[root.dataset.theme]);
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    tooltip.close();
    if (conversation.running) conversation.stop();
    else if (narrow.matches) for (const name of ["settings", "engine"]) show(name, false);
  }
  const typing = event.target.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=range])");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    if (narrow.matches) for (const name of ["settings", "engine"]) show(name, false);
    composer.focus();
  }
});
narrow.addEventListener("change", arrange);
addEventListener("keygiven", () => {
  engine.look();
  if (!hasModels()) loadModels();
});

askForKeys();
tooltip.watch(byId("log").parentElement);
setTheme(root.dataset.theme);
const mode = remembered("mode", "chat");
byId(`mode-${mode}`).checked = true;
setMode(mode);
arrange();
composer.focus();
engine.look(); // the settings show the model's defaults, whether or not the engine is watched
loadModels();
