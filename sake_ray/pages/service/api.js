// What the page asks of the service: requests, the token and problems. Shows nothing itself.
import { StreamBroken, readEvents } from "./sse.js";

const TOKEN = "token"; // the one thing kept in sessionStorage

/** What went wrong, in the service's words; `code` is the last part of its type. */
export class Problem extends Error {
  constructor(told, retryAfter = null) {
    super(String(told.detail || told.title || "The service answered with an error."));
    this.code = String(told.type || "").split(":").pop();
    this.title = String(told.title || "");
    this.status = Number(told.status) || 0;
    this.field = typeof told.field === "string" ? told.field : null;
    this.retryAfter = retryAfter;
  }
}

/** The connection could not be made or broke. */
export class Broken extends Error {}

/** The token as this tab knows it; a page of the service keeps nothing else. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN) || "",
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

let askAgain = async () => null;
let asking = null;

/** Who asks the person for a token: a function of the reason, answering the token or null when they will not. */
export function onUnauthorized(ask) {
  askAgain = ask;
}

/** Ask the person for the token; those who ask meanwhile wait for the same answer. */
export function askToken(reason) {
  asking ??= askAgain(reason).finally(() => { asking = null; });
  return asking;
}

function retrySeconds(response) {
  const told = response.headers.get("Retry-After");
  if (told === null) return null;
  const seconds = /^\d+$/.test(told.trim()) ? Number(told) : (Date.parse(told) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(1, Math.ceil(seconds)) : null;
}

async function problemOf(response) {
  let told = {};
  try {
    const body = await response.json();
    if (body && typeof body === "object") told = body;
  } catch {
    told = { detail: `The service answered ${response.status} without saying why.` }; // a proxy's page, for example
  }
  return new Problem({ status: response.status, ...told }, retrySeconds(response));
}

/** A response of status 200; everything else is thrown. A 401 asks for the token (if it may) and goes again. */
async function request(path, init = {}, mayAsk = true) {
  for (;;) {
    const used = token.get();
    const headers = { ...init.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...init, headers, redirect: "error", cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Broken("The service cannot be reached.");
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401) throw problem;
    if (token.get() !== used) continue; // someone else was asked meanwhile
    if (!mayAsk || !await askToken(used ? "The service did not accept the token." : "")) throw problem;
  }
}

async function json(path) {
  const response = await request(path);
  try {
    return await response.json();
  } catch {
    throw new Broken("The service's answer broke off.");
  }
}

export const policies = () => json("/v1/policies");
export const examples = async () => (await json("/v1/examples")).examples;

const pictures = new Map();

/** A picture of the service as a Blob, asked for once; those nobody has asked for by hand may not ask for the token. */
export function picture(path, mayAsk = true) {
  const address = new URL(path, location.origin);
  if (address.origin !== location.origin) return Promise.reject(new Broken("The picture is not of this service."));
  if (!pictures.has(address.href)) {
    const blob = request(address.href, {}, mayAsk).then((response) => response.blob());
    blob.catch(() => pictures.delete(address.href));
    pictures.set(address.href, blob);
  }
  return pictures.get(address.href);
}

/** A Blob's bytes as base64. */
export function base64(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(new Problem({ field: "image", detail: "The picture's file cannot be read." }));
    reader.readAsDataURL(blob);
  });
}

/** Ask for an extraction; `onEvent(name, value)` for each event, and the result at the end. */
export async function extract(body, signal, onEvent) {
  const response = await request("/v1/extract", {
    method: "POST", signal, body: JSON.stringify({ ...body, stream: true }),
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
  });
  let result = null, problem = null;
  try {
    await readEvents(response.body, (name, data) => {
      const value = JSON.parse(data);
      if (name === "result") result = value;
      else if (name === "error") problem = new Problem(value);
      else onEvent(name, value);
    });
  } catch (error) {
    if (!(error instanceof StreamBroken)) throw error;
    if (result === null && problem === null) throw new Broken("The connection broke before the answer was whole.");
  }
  if (problem) throw problem;
  if (result === null) throw new Broken("The connection ended before the answer was whole.");
  return result;
}
