// The form: the picture (dropped, pasted, picked, or its address), the post, the options; problems beside their fields.
// It sends nothing and loads nothing: `read` gives what is in it, `put` fills it. A picture and an address are never
// both there: the one that came last counts.
import { byId, show } from "./dom.js";
import { countPoints } from "./points.js";

const NUMBERS = ["text_searches", "image_searches", "seed", "temperature", "deadline_s"];
const LONGEST_ADDRESS = 2_048;

let limits = { max_text_chars: 4_000, max_body_bytes: Infinity };
let image = null; // {blob, name, example} or null
let preview = "";

const wrapperOf = (field) => document.querySelector(`[data-field="${CSS.escape(field)}"]`);

/** Show a problem beside the field it names; false where the form has no such field. */
export function complain(field, words) {
  const wrapper = wrapperOf(field);
  const place = wrapper?.querySelector(":scope > .problem");
  if (!place) return false;
  for (let outer = wrapper; outer; outer = outer.parentElement.closest("details")) {
    if (outer.tagName === "DETAILS") outer.open = true;
  }
  place.textContent = words;
  const control = wrapper.querySelector("input, textarea, select");
  control.setAttribute("aria-invalid", "true");
  if (document.querySelector("[aria-invalid=true]") === control) control.focus();
  return true;
}

/** Forget problems: of one field, or all. */
export function forgive(wrapper = byId("ask")) {
  for (const place of wrapper.querySelectorAll(".problem")) place.textContent = "";
  for (const control of wrapper.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
}

/** An address as it is sent, or null where it is none of the web's. */
export function webAddress(text) {
  if (!URL.canParse(text.trim())) return null;
  const { protocol, href } = new URL(text.trim());
  return ["https:", "http:"].includes(protocol) && href.length <= LONGEST_ADDRESS ? href : null;
}

function setPicture(chosen) {
  image = chosen;
  forgive(wrapperOf("image"));
  if (chosen) setAddress("");
  if (preview) URL.revokeObjectURL(preview);
  preview = chosen ? URL.createObjectURL(chosen.blob) : "";
  const shown = byId("preview");
  shown.hidden = !chosen;
  if (chosen) shown.src = preview;
  else shown.removeAttribute("src");
  byId("drop-hint").hidden = Boolean(chosen);
  byId("file-note").textContent = chosen ? chosen.name : "";
}

function setAddress(text) {
  byId("image_url").value = text;
  forgive(wrapperOf("image_url"));
  if (text.trim()) setPicture(null);
}

function takeFile(file, name = file.name) {
  byId("file").value = "";
  setPicture({ blob: file, name, example: null });
}

function countText() {
  const count = countPoints(byId("text").value);
  byId("text-count").textContent = `${show(count)} of at most ${show(limits.max_text_chars)} characters`;
  byId("text-count").classList.toggle("over", count > limits.max_text_chars);
}

function dropped(event) {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) takeFile(file);
  else complain("image", "That is no file. Save the picture first, then drop its file here.");
}

/** Begin to listen; `submit` is called when the person asks for an answer. */
export function begin(submit) {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    submit();
  });
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    // The field is emptied at once, so the same file can be chosen again after it has changed.
    if (file) takeFile(file);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData?.files ?? []].find((item) => item.type.startsWith("image/"));
    if (!file || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    takeFile(file, "a pasted picture");
  });
  // A file may fall anywhere: one that misses its place must not make the browser leave the page.
  const ours = (event) => event.dataTransfer?.types.includes("Files") || event.target.closest?.("#drop");
  document.addEventListener("dragover", (event) => { if (ours(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => { if (ours(event)) dropped(event); });
  byId("drop").addEventListener("dragover", () => byId("drop").classList.add("over"));
  byId("drop").addEventListener("dragleave", () => byId("drop").classList.remove("over"));
  byId("preview").addEventListener("error", () => {
    byId("preview").hidden = true;
    byId("file-note").textContent = `${image?.name ?? ""}: this browser cannot show it; the service may be able to.`;
  });
  byId("image_url").addEventListener("input", (event) => { if (event.target.value.trim()) setPicture(null); });
  byId("text").addEventListener("input", countText);
  byId("ask").addEventListener("input", (event) => forgive(event.target.closest("[data-field]") ?? byId("ask")));
  byId("search").addEventListener("change", searchChanged);
  byId("policy").addEventListener("change", policyChanged);
  countText();
}

function searchChanged() {
  for (const name of ["text_searches", "image_searches"]) byId(name).disabled = !byId("search").checked;
}

function policyChanged() {
  for (const option of byId("second").options) option.disabled = option.value === byId("policy").value;
  if (byId("second").value === byId("policy").value) byId("second").value = "";
}

/** What the service allows and which policies it has. */
export function allow(told, names) {
  limits = { ...limits, ...told };
  for (const name of ["text_searches", "image_searches"]) {
    if (!Number.isInteger(limits[name])) continue;
    byId(name).max = limits[name];
    byId(name).value = limits[name];
  }
  if (Number.isFinite(limits.max_deadline_s)) {
    byId("deadline_s").max = limits.max_deadline_s;
    byId("deadline_s").value = Math.min(60, limits.max_deadline_s);
  }
  byId("policy-choice").hidden = names.length < 2;
  byId("policy").replaceChildren(...names.map((name) => new Option(name, name)));
  byId("second").replaceChildren(new Option("none", ""), ...names.map((name) => new Option(name, name)));
  byId("second").value = names.length === 2 ? names[1] : "";
  policyChanged();
  searchChanged();
  countText();
}

function readNumbers(options) {
  let good = true;
  for (const name of NUMBERS) {
    const control = byId(name);
    if (control.disabled) continue;
    const value = control.valueAsNumber;
    if (control.checkValidity() && Number.isFinite(value)) options[name] = value;
    else {
      const most = control.max ? ` and at most ${control.max}` : "";
      const sort = control.step === "1" ? "A whole number" : "A number";
      complain(`options.${name}`, `${sort}, at least ${control.min}${most}.`);
      good = false;
    }
  }
  return good;
}

/** What is in the form, or null when a field says why not. */
export function read() {
  forgive();
  const text = byId("text").value, options = { search: byId("search").checked };
  let good = true;
  const refuse = (field, words) => { complain(field, words); good = false; };
  const typed = byId("image_url").value, address = webAddress(typed);
  if (typed.trim()) {
    if (!address) refuse("image_url", "Give a whole address, https://… or http://…, of at most 2,048 characters.");
  } else if (!image) refuse("image", "Choose a picture, give its address, or click an example.");
  else if (image.blob.size === 0) refuse("image", "The file is empty.");
  else if (image.blob.size * 4 / 3 + text.length * 6 + 2_000 > limits.max_body_bytes) {
    const most = show(limits.max_body_bytes * 0.7 / 2 ** 20, 1);
    refuse("image", `The file is too large: the service takes about ${most} MiB.`);
  }
  if (!text.trim()) refuse("text", "Type or paste the post.");
  else if (countPoints(text) > limits.max_text_chars) {
    refuse("text", `The post is too long: at most ${show(limits.max_text_chars)} characters.`);
  }
  if (!readNumbers(options) || !good) return null;
  const several = !byId("policy-choice").hidden;
  const policies = several ? [byId("policy").value, byId("second").value].filter(Boolean) : [];
  return { text: text.toWellFormed?.() ?? text, options, policies, address, ...image };
}

/** Fill the form; what is not told stays as it is, and what a field does not allow is left out. */
export function put({ text, options = {}, policies = [], picture, address }) {
  if (text !== undefined) forgive(); // another post; a picture alone forgives its own field
  if (text !== undefined) byId("text").value = text;
  if (picture !== undefined) setPicture(picture);
  if (address) setAddress(address);
  if (options.search !== undefined) byId("search").checked = String(options.search) !== "false";
  for (const name of NUMBERS) {
    if (options[name] === undefined || !Number.isFinite(Number(options[name]))) continue;
    const before = byId(name).value;
    byId(name).value = String(options[name]);
    if (byId(name).value === "" || !byId(name).checkValidity()) byId(name).value = before;
  }
  const known = (name) => [...byId("policy").options].some((option) => option.value === name);
  if (policies.length && policies.every(known)) {
    byId("policy").value = policies[0];
    byId("second").value = policies[1] ?? "";
  }
  policyChanged();
  searchChanged();
  countText();
}
