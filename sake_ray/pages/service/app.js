// Puts the page together: starts it, asks for answers, keeps those of this visit, restores links, asks for the token.
import * as api from "./api.js";
import { differences } from "./compare.js";
import { byId, make } from "./dom.js";
import { exampleOf, pictureOf, showExamples } from "./examples.js";
import * as form from "./form.js";
import { countPoints, shorten } from "./points.js";
import { complaint, createRun, explain } from "./run.js";
import { linkOf, readLink } from "./save.js";

const MOST_PAST = 30;
const past = []; // newest first: {request, runs, node, picture, button}
let asked = 0, chosen = null;

const say = (words) => { byId("status").textContent = words; };

/** Something went wrong outside an answer; `again` tries it once more. */
function notice(words, again) {
  const retry = again && (() => {
    byId("notice").replaceChildren();
    again();
  });
  byId("notice").replaceChildren(...(words ? [complaint(words, retry)] : []));
}

// The token.

api.onUnauthorized((why) => new Promise((done) => {
  const dialog = byId("token-dialog");
  byId("token-why").textContent = why;
  byId("token").value = "";
  const end = (value) => {
    byId("token-form").onsubmit = byId("token-cancel").onclick = dialog.oncancel = null;
    dialog.close();
    if (value) api.token.set(value);
    done(value);
  };
  byId("token-form").onsubmit = (event) => {
    event.preventDefault();
    const value = byId("token").value.trim();
    // A header cannot hold anything but these.
    if (/^[\x21-\x7e]+$/.test(value)) end(value);
    else byId("token-why").textContent = "A token is letters, digits and signs without blanks.";
  };
  byId("token-cancel").onclick = () => end(null);
  dialog.oncancel = () => end(null);
  if (!dialog.open) dialog.showModal();
  byId("token").focus();
}));

// Answers.

function running() {
  const busy = past.some(({ runs }) => runs.some((run) => run.running));
  if (!busy && document.activeElement === byId("cancel")) byId("extract").focus();
  byId("cancel").hidden = !busy;
  byId("extract").setAttribute("aria-disabled", String(busy));
  return busy;
}

function cancel() {
  for (const { runs } of past) for (const run of runs) run.cancel();
}

function linkRow(entry) {
  const field = make("input", { type: "text", readonly: true, "aria-label": "Link to this view", hidden: true });
  const told = make("span", { class: "note told-link", role: "status" },
    entry.picture && !entry.request.example ? "A link cannot hold your own picture; it restores everything else." : "");
  const copy = async () => {
    const { hash, left } = linkOf(entry.request);
    history.replaceState(null, "", hash);
    field.value = location.href;
    field.hidden = false;
    const lost = left.map((part) => (part === "text" ? "the post (it is too long for one)" : "your own picture"));
    const but = lost.length ? ` It does not hold ${lost.join(" and ")}; it restores everything else.` : "";
    try {
      await navigator.clipboard.writeText(location.href);
      told.textContent = `Copied.${but}`;
    } catch {
      field.select(); // pages without https may not write to the clipboard
      told.textContent = `Copy the link from the field.${but}`;
    }
  };
  return make("div", { class: "actions" },
    make("button", { type: "button", class: "copy-link", onclick: copy }, "Copy link"),
    make("button", { type: "button", class: "edit", onclick: () => edit(entry.request) }, "Edit this post"),
    field, told);
}

function edit({ text, options, policies, blob, name, example, address }) {
  form.put({ text, options, policies, address, picture: blob ? { blob, name, example } : null });
  byId("text").focus();
}

function compare(entry) {
  const [first, second] = entry.runs;
  if (!second || !first.result || !second.result) return;
  const notes = differences(first.result, second.result);
  first.view.differences(notes[0]);
  second.view.differences(notes[1]);
  const count = notes.flat().filter((texts) => texts.length).length;
  entry.summary.textContent = count
    ? `The two differ on ${count} of ${notes.flat().length} entities named; each is marked. `
      + "Boxes that overlap by less than half count as different."
    : "Both say the same.";
}

function settle(entry) {
  compare(entry);
  const counts = entry.runs.map((run) => (run.result ? `${run.result.entities.length}` : "–"));
  entry.button.querySelector(".note").textContent = `${entry.time} · entities ${counts.join(" / ")}`;
  if (!running()) say(entry.runs.map((run) => run.told).join(" "));
}

function look(entry) {
  byId("results").replaceChildren(entry.node);
  for (const { button } of past) button.setAttribute("aria-current", String(button === entry.button));
}

function remember(entry) {
  entry.time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  entry.button = make("button", { type: "button", class: "past", onclick: () => look(entry) },
    make("span", { class: "example-text", dir: "auto" }, shorten(entry.request.text, 80)),
    make("span", { class: "note" }, entry.time));
  past.unshift(entry);
  byId("past").prepend(make("li", null, entry.button));
  byId("history").hidden = false;
  for (const gone of past.splice(MOST_PAST)) {
    gone.button.parentElement.remove();
    if (gone.picture) URL.revokeObjectURL(gone.picture);
  }
}

async function submit() {
  if (running()) {
    say("An answer is under way; cancel it first.");
    return;
  }
  const request = form.read();
  if (!request) {
    say("Something is missing; it is told beside its field.");
    return;
  }
  asked += 1;
  const mine = asked;
  const picture = request.blob ? URL.createObjectURL(request.blob) : null;
  const entry = { request, picture, summary: make("p", { class: "summary" }, "") };
  entry.runs = (request.policies.length ? request.policies : [""]).map((policy) => createRun({
    request, picture, policy, say, started: running, settled: () => settle(entry),
    // The form shows a problem only while it still holds the request that has it.
    beside: (problem) => mine === asked && problem.field !== null && form.complain(problem.field, explain(problem)),
  }));
  entry.node = make("div", { class: "entry" }, linkRow(entry), entry.summary,
    make("div", { class: entry.runs.length > 1 ? "sides" : "single" }, entry.runs.map((run) => run.node)));
  remember(entry);
  look(entry);
  const place = byId("results").getBoundingClientRect();
  if (place.top > window.innerHeight * 0.6) byId("results").scrollIntoView();
  await Promise.all(entry.runs.map((run) => run.start()));
}

// Examples and links.

async function choose(example) {
  chosen = example;
  try {
    const picture = await pictureOf(example);
    if (chosen !== example) return; // another was clicked meanwhile
    form.put({ text: example.text, picture });
  } catch (error) {
    notice(`The example's picture did not come. ${explain(error)}`, () => choose(example));
    return;
  }
  say(`The example is in the form: ${countPoints(example.text)} characters and its picture. Extract it.`);
  byId("extract").focus();
}

async function restore() {
  const link = readLink(location.hash);
  if (!link) return;
  const example = link.example === null ? undefined : exampleOf(link.example);
  form.put({ text: link.text ?? "", options: link.options, policies: link.policies });
  if (link.text === null) form.complain("text", "The post was too long for the link: paste it again.");
  if (example) {
    try {
      form.put({ picture: await pictureOf(example) });
    } catch (error) {
      notice(`The example's picture did not come. ${explain(error)}`, restore);
      return;
    }
    say("Restored from the link. Extract it.");
  } else if (link.address !== null) {
    const address = form.webAddress(link.address);
    form.put({ address });
    if (address) say("Restored from the link. Extract it.");
    else form.complain("image_url", "The link's address is none of the web's: give another, or choose a picture.");
  } else if (link.own) {
    form.complain("image", "The link restored everything but the picture, which was somebody's own: choose it again.");
  } else form.complain("image", "The link names an example that this service does not have: choose a picture.");
}

function showPolicies(list) {
  byId("policies").replaceChildren(...list.map(({ name, model, checkpoint, version }) => make("div", null,
    make("dt", null, name || "policy"),
    make("dd", null, [model, checkpoint, `version ${version}`].filter(Boolean).join(" · ")))));
}

async function start() {
  try {
    const told = await api.policies();
    showPolicies(told.policies);
    form.allow(told.limits, told.policies.map(({ name }) => name));
    if (told.token && !api.token.get()) await api.askToken("");
    showExamples(await api.examples(), choose);
    await restore();
  } catch (error) {
    byId("examples").replaceChildren(make("p", { class: "quiet" }, "Not loaded."));
    notice(explain(error), start);
  }
  document.documentElement.dataset.ready = "yes";
}

form.begin(submit);
byId("cancel").addEventListener("click", cancel);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash belongs to links
  byId("ask").focus();
});
addEventListener("hashchange", restore);
start();
