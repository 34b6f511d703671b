// The two dialogs: the key, and the request as code.

import { absolute, hasKey, onKeyNeeded } from "./api.js";
import { asCurl, asPython } from "./code.js";
import { byId } from "./dom.js";

/** Ask for the key whenever the server wants one. */
export function askForKeys() {
  const dialog = byId("key-dialog");
  const input = byId("key");
  onKeyNeeded((refused) => {
    byId("key-refused").hidden = !refused;
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    input.focus();
    return new Promise((resolve) => {
      dialog.addEventListener(
        "close",
        () => resolve(dialog.returnValue === "give" && input.value ? input.value : null),
        { once: true },
      );
    });
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault(); // the page's policy allows no form to go anywhere
    dialog.close(input.value ? "give" : "");
  });
  byId("key-cancel").addEventListener("click", () => dialog.close(""));
}

/** Show a request as code. */
export function showCode(request) {
  const dialog = byId("code-dialog");
  const write = byId("code-python").checked ? asPython : asCurl;
  byId("code-text").textContent = write(request, absolute("v1"), hasKey());
  byId("code-copy").textContent = "Copy";
  if (!dialog.open) {
    for (const id of ["code-curl", "code-python"]) byId(id).onchange = () => showCode(request);
    byId("code-copy").onclick = copy;
    byId("code-close").onclick = () => dialog.close();
    dialog.showModal();
  }
}

async function copy() {
  const code = byId("code-text");
  try {
    await navigator.clipboard.writeText(code.textContent);
    byId("code-copy").textContent = "Copied";
  } catch {
    // No clipboard without TLS, or not allowed: the text is marked, for the person to copy.
    getSelection().selectAllChildren(code);
    byId("code-copy").textContent = "Press Ctrl+C";
  }
}
