// Calls to the server: the key, errors in words, event streams. Knows no page.

/** An answer other than success, in words. `param` names the offending field, if any. */
export class ApiFailure extends Error {
  constructor(message, { status = 0, param = null, code = null } = {}) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

const STORED = "quire.key";
let key = null;
try {
  key = sessionStorage.getItem(STORED);
} catch {
  // Without storage the key lives as long as the page.
}

let ask = null; // async (refused: boolean) => key or null
let asking = null; // the one question under way

/** Who asks the person for a key. */
export function onKeyNeeded(asker) {
  ask = asker;
}

export const hasKey = () => key !== null;

/** Paths are relative to the page, which may be shown below a proxy's prefix. */
export const absolute = (path) => new URL(path, document.baseURI).href;

function setKey(value) {
  key = value;
  try {
    if (value === null) sessionStorage.removeItem(STORED);
    else sessionStorage.setItem(STORED, value);
  } catch {
    // See above.
  }
}

/** Ask for a key, once however many calls wait for it. False if the person gives none; else "keygiven" is fired. */
export function requestKey() {
  asking ??= (async () => {
    const given = await ask(key !== null);
    if (given !== null) {
      setKey(given);
      dispatchEvent(new Event("keygiven"));
    }
    return given !== null;
  })().finally(() => {
    asking = null;
  });
  return asking;
}

/**
 * A response with a good status.
 *
 * `askForKey`: on 401 the person is asked, and the call made again; else it fails.
 */
export async function call(path, { body, signal, askForKey = true } = {}) {
  for (;;) {
    const used = key;
    const headers = {};
    if (used !== null) headers.Authorization = `Bearer ${used}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(absolute(path), {
        method: body === undefined ? "GET" : "POST",
        body: body === undefined ? undefined : JSON.stringify(body),
        headers,
        signal,
        cache: "no-store",
        credentials: "same-origin",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiFailure("The server cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    const failure = await described(response);
    if (response.status !== 401 || !askForKey) throw failure;
    // Someone else may have been given a key while this call was under way.
    if (key === used && !(await requestKey())) throw failure;
  }
}

async function described(response) {
  const { status } = response;
  let error = {};
  try {
    const body = await response.json();
    error = body.error ?? body;
  } catch {
    // Not JSON: a proxy's page, say. The status has to do.
  }
  let message = typeof error === "string" ? error : error.message ?? error.detail;
  if (typeof message !== "string") message = `The server answered ${status} ${response.statusText}`.trim();
  const wait = response.headers.get("Retry-After");
  if (wait !== null && (status === 429 || status === 503)) message += ` Try again in ${wait} s.`;
  return new ApiFailure(message, { status, param: error.param ?? null, code: error.code ?? null });
}

/** The JSON of each `data:` event of a response, until `[DONE]`. An event that holds an error throws it. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiFailure(event.error.message, event.error);
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiFailure("The connection to the server broke off.");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiFailure("The server ended the answer before it was complete.");
}
