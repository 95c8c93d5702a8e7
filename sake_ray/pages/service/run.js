// One policy's answer to one post, from the first event to what can be taken away; shown in a panel of its own.
import { Broken, Problem, base64, extract } from "./api.js";
import { make, plural, show } from "./dom.js";
import { saveJson, savePicture } from "./save.js";
import { createTrace } from "./trace.js";
import { createView } from "./view.js";
import { unfinishedEntities } from "./points.js";

const AGAIN = {
  busy: "The service is busy.", unavailable: "The service is not available right now.",
  deadline: "The deadline passed before the answer was whole.",
};

const inSeconds = (seconds) => (seconds ? ` Try again in ${plural(seconds, "second")}.` : " Try again in a moment.");

/** What to tell a person about an error. */
export function explain(error) {
  if (error instanceof Broken) {
    return `${error.message} It may have been restarted. Your post and picture are still here: try again.`;
  }
  if (!(error instanceof Problem)) return `The page could not read the answer (${error.message}).`;
  const begin = AGAIN[error.code];
  const words = begin && !error.message.startsWith(begin) ? `${begin} ${error.message}` : error.message;
  return ["busy", "unavailable"].includes(error.code) || error.retryAfter ? words + inSeconds(error.retryAfter) : words;
}

/** A line with what went wrong and, where it helps, a button to do it again. */
export const complaint = (words, again) => make("div", { class: "alert" }, make("p", null, words),
  again ? make("button", { type: "button", class: "again", onclick: again }, "Try again") : null);

function factsOf({ seconds, usage, turns, seed }) {
  const facts = [
    ["time", `${show(seconds.total)} s`],
    ["of it", `writing ${show(seconds.generate)}, searching ${show(seconds.search)}, waiting ${show(seconds.wait)}`],
    ["turns", show(turns.length)], ["searches", show(usage.searches)],
    ["tokens", `${show(usage.prompt_tokens)} read, ${show(usage.generated_tokens)} written`], ["seed", String(seed)],
  ];
  return make("dl", { class: "facts" },
    facts.map(([name, value]) => make("div", null, make("dt", null, name), make("dd", null, value))));
}

async function pictureOf(request) {
  if (request.address) return { image_url: request.address };
  request.base64 ??= base64(request.blob);
  return { image: await request.base64 };
}

/** A policy in one line. */
export const policyWords = ({ name, model, checkpoint, version }) =>
  [name, model, checkpoint, version ?? "" ? `version ${version}` : ""].filter(Boolean).join(" · ");

/**
 * A panel. `request` is {text, options} with a blob or an address, `picture` where the page has its picture (null:
 * only the service has it), `policy` its name; `say` tells the status line, `beside(problem)` shows a problem beside
 * the field it names and answers whether there is one; `settled` is called whenever a result has come.
 */
export function createRun({ request, picture, policy, say, beside, settled, started }) {
  const view = createView(request.text, picture, request.address), trace = createTrace();
  const title = make("h3", { class: "policy" }, policy || "");
  const state = make("p", { class: "state quiet" }, "");
  const alert = make("div", { role: "alert" });
  const facts = make("div"), actions = make("div", { class: "actions" });
  const node = make("article", { class: "panel", "aria-label": `Answer ${policy || ""}`.trim() },
    title, state, alert, view.node, actions, trace.node, facts);
  const prefix = policy ? `${policy}: ` : "";
  let control = null;

  const phase = (words, running = true) => {
    state.textContent = words;
    node.classList.toggle("running", running);
    say(prefix + words);
  };
  function begin() {
    run.result = null;
    trace.clear();
    view.provisional([]);
    [alert, facts, actions].forEach((place) => place.replaceChildren());
    phase("Waiting for the policy …");
  }
  const on = {
    start(told) {
      title.textContent = policyWords(told.policy);
      view.size(told.image);
    },
    delta({ turn, text }) {
      const raw = trace.delta(turn, text);
      if (state.dataset.turn !== String(turn)) phase(`Writing turn ${turn + 1} …`);
      state.dataset.turn = turn;
      if (text.includes("}")) view.provisional(unfinishedEntities(raw));
    },
    turn(told) {
      trace.turn(told);
      if (told.action.endsWith("_search")) phase("Searching …");
    },
    search({ turn, search }) {
      trace.search(turn, search);
      phase("Read what was found; going on …");
    },
    restart({ reason }) {
      trace.clear();
      view.provisional([]);
      delete state.dataset.turn;
      phase(`Began anew: ${reason}`);
    },
  };
  function finish(result) {
    run.result = result;
    view.settle(result);
    trace.settle(result.turns);
    title.textContent = policyWords(result.policy);
    const searched = result.entities.filter((entity) => entity.searched).length;
    phase(`Done: ${plural(result.entities.length, "entity", "entities")}, ${show(searched)} searched.`, false);
    facts.replaceChildren(factsOf(result));
    actions.replaceChildren(
      make("button", { type: "button", class: "save-json", onclick: () => saveJson(result) }, "Download JSON"));
    if (picture) {
      actions.append(make("button", {
        type: "button", class: "save-png",
        onclick: () => savePicture(result, picture).catch(() => {
          alert.replaceChildren(complaint("This browser cannot draw the picture, so there is no PNG of it."));
        }),
      }, "Download picture with boxes"));
    }
  }
  function fail(error) {
    if (error.name === "AbortError") {
      phase("Cancelled.", false);
      actions.replaceChildren(make("button", { type: "button", class: "again", onclick: run.start }, "Try again"));
      return;
    }
    phase("No answer.", false);
    if (error instanceof Problem && beside(error)) {
      alert.replaceChildren(make("p", { class: "quiet" }, "The request was refused; why is told beside its field."));
    } else alert.replaceChildren(complaint(explain(error), run.start));
  }

  const run = {
    node, view, policy, result: null,
    get running() { return control !== null; },
    /** The last thing it told the status line. */
    get told() { return prefix + state.textContent; },
    cancel() { control?.abort(); },
    /** Ask the service; never throws. May be called again. */
    async start() {
      if (control) return;
      control = new AbortController();
      begin();
      started();
      try {
        const options = { ...request.options, policy, thumbnails: true };
        const body = { text: request.text, ...await pictureOf(request), options };
        finish(await extract(body, control.signal, (name, value) => on[name]?.(value)));
      } catch (error) {
        fail(error);
      } finally {
        control = null;
        request.base64 = undefined; // up to a third larger than the picture; another try makes it anew
        delete state.dataset.turn;
        settled();
      }
    },
  };
  return run;
}
