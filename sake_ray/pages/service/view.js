// An answer to look at: the picture with boxes, the post with marked spans and a row for each entity. What is hovered,
// focused or pinned lights up in all three. Everything told is text.
import { draw, icon, make, roving } from "./dom.js";
import { segments, shorten } from "./points.js";

const KINDS = { PER: 0, ORG: 1, LOC: 2, MISC: 3 };
const SMALL = 200; // pictures of at most this many pixels are shown enlarged, pixel by pixel

/** The colour class of a type; the four usual types have one each, others one by their letters. */
export function kind(type) {
  if (Object.hasOwn(KINDS, type)) return `s${KINDS[type]}`;
  let sum = 0;
  for (const character of String(type)) sum = (sum * 31 + character.codePointAt(0)) % 4;
  return `s${4 + sum}`;
}

/** A box as four numbers with an area, or null. */
export function boxOf(entity) {
  const box = entity.box;
  const good = Array.isArray(box) && box.length === 4 && box.every(Number.isFinite);
  return good && box[0] < box[2] && box[1] < box[3] ? box : null;
}

export const badge = (searched) => make("span", { class: `badge ${searched ? "searched" : "known"}` },
  icon(searched ? "searched" : "known"), searched ? "searched" : "known");

/** Light up whatever belongs to the entities under the pointer, in focus or pinned. */
function linked(root) {
  const at = { pointer: [], focus: [] };
  const pinned = new Set();
  const of = (target) => {
    const item = target instanceof Element ? target.closest("[data-of]") : null;
    return item ? item.dataset.of.split(" ") : [];
  };
  const refresh = () => {
    const lit = new Set([...at.pointer, ...at.focus, ...pinned]);
    for (const item of root.querySelectorAll("[data-of]")) {
      const own = item.dataset.of.split(" ");
      item.classList.toggle("lit", own.some((number) => lit.has(number)));
      item.setAttribute("aria-pressed", String(own.every((number) => pinned.has(number))));
    }
  };
  const follow = (event, name, numbers) => root.addEventListener(event, (told) => {
    at[name] = numbers(told);
    refresh();
  });
  follow("pointerover", "pointer", (event) => of(event.target));
  follow("pointerleave", "pointer", () => []);
  follow("focusin", "focus", (event) => of(event.target));
  follow("focusout", "focus", (event) => of(event.relatedTarget));
  const pin = (numbers) => {
    const all = numbers.length > 0 && numbers.every((number) => pinned.has(number));
    for (const number of numbers) if (all) pinned.delete(number); else pinned.add(number);
    refresh();
  };
  root.addEventListener("click", (event) => pin(of(event.target)));
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { pinned.clear(); at.pointer = []; refresh(); }
    // Buttons click by themselves; spans and boxes only act like buttons.
    if (!["Enter", " "].includes(event.key) || event.ctrlKey || event.target.tagName === "BUTTON") return;
    if (!of(event.target).length) return;
    event.preventDefault();
    pin(of(event.target));
  });
  return refresh;
}

function boxes(result) {
  const { width, height } = result.image;
  const percent = (part, whole) => `${(part / whole) * 100}%`;
  return result.entities.flatMap((entity, number) => {
    const box = boxOf(entity);
    if (!box) return [];
    const within = (part, whole) => Math.max(0, Math.min(whole, part));
    const [x1, x2] = [within(box[0], width), within(box[2], width)];
    const [y1, y2] = [within(box[1], height), within(box[3], height)];
    const place = {
      x: percent(x1, width), y: percent(y1, height), width: percent(x2 - x1, width), height: percent(y2 - y1, height),
    };
    const right = x1 > width * 0.55, above = y1 > height * 0.12;
    return [draw("g", {
      class: kind(entity.type), "data-of": number, role: "button", tabindex: -1, "aria-pressed": "false",
      "aria-label": `Box of ${number + 1}, ${entity.text}, ${entity.type}`,
    },
    draw("rect", { ...place, class: "under" }),
    draw("rect", { ...place, class: "box" }),
    draw("text", {
      x: percent(right ? x2 : x1, width), y: percent(y1, height), dx: right ? -3 : 3, dy: above ? -6 : 16,
      "text-anchor": right ? "end" : "start",
    }, `${number + 1} ${shorten(entity.text, 18)}`))];
  });
}

function marked(result) {
  const { entities, text } = result;
  return segments(text, entities.map((entity) => entity.span)).map(({ text: piece, covering, ending }) => {
    if (!covering.length) return piece;
    const names = covering.map((number) => `${number + 1}, ${entities[number].type}`);
    // The innermost entity gives the colour: it is the shortest that covers the piece.
    const size = (number) => entities[number].span[1] - entities[number].span[0];
    const inner = covering.reduce((a, b) => (size(b) < size(a) ? b : a));
    return make("mark", {
      class: `${kind(entities[inner].type)}${covering.length > 1 ? " shared" : ""}`, "data-of": covering.join(" "),
      role: "button", tabindex: -1, "aria-pressed": "false", "aria-label": `${piece}: entity ${names.join(" and ")}`,
    }, piece, ending.map((number) => make("sup", { "aria-hidden": "true" }, number + 1)));
  });
}

function row(entity, number) {
  const box = boxOf(entity);
  const where = [
    box ? `box ${box.map((side) => Math.round(side)).join(", ")}` : "no box",
    Array.isArray(entity.span) ? null : "not in the post as written",
  ].filter(Boolean).join(" · ");
  return make("li", null,
    make("button", { type: "button", class: `row ${kind(entity.type)}`, "data-of": number, "aria-pressed": "false" },
      make("span", { class: "number" }, number + 1),
      make("bdi", { class: "name" }, entity.text),
      make("span", { class: "chip type" }, entity.type),
      badge(entity.searched),
      make("span", { class: "where" }, where)),
    make("span", { class: "differences" }));
}

const unfinishedRow = (entity, number) => make("li", null,
  make("div", { class: `row unfinished ${kind(entity.type)}` },
    make("span", { class: "number" }, number + 1),
    make("bdi", { class: "name" }, entity.text),
    make("span", { class: "chip type" }, entity.type),
    make("span", { class: "where" }, "box when the answer is whole")));

const WHY_NONE = {
  answer: "The answer names no entity.",
  malformed: "No entities: the last turn could not be read as an answer.",
  search_limit: "No entities: the policy wanted to search once more than allowed.",
  turn_limit: "No entities: the turns were used up before an answer came.",
  truncated: "No entities: the last turn was cut off before it was whole.",
};

const UNSEEN = "The service fetched this picture; it is not shown here.";

/** The picture, or where the page has none an empty sheet in its place; both take a size and keep its ratio. */
function sheetOf(picture) {
  if (picture) return make("img", { src: picture, alt: "The picture of the post" });
  return draw("svg", { class: "blank", role: "img", "aria-label": UNSEEN });
}

/**
 * The view of one answer; `text` and `picture` are shown from the start. `picture` is where the page has it, or null:
 * then `source`, the address that the service has it from, is told as text.
 */
export function createView(text, picture, source) {
  const layer = draw("svg", { class: "layer", role: "group", "aria-label": "Boxes" });
  const sheet = sheetOf(picture);
  const frame = make("div", { class: "frame", hidden: !picture }, sheet, layer);
  const told = make("span", null, "The service fetches the picture.");
  const origin = picture ? null : make("p", { class: "note origin" }, told, " ", make("bdi", null, source));
  const post = make("p", { class: "post", dir: "auto" }, text);
  const list = make("ol", { class: "entities", "aria-label": "Entities" });
  const note = make("p", { class: "quiet nothing" }, "");
  const node = make("div", { class: "view" }, make("div", { class: "seen" }, frame, origin),
    make("div", { class: "told" }, post, list, note));
  const enlarge = (...sides) => frame.classList.toggle("small", Math.max(...sides) <= SMALL);
  if (picture) sheet.addEventListener("load", () => enlarge(sheet.naturalWidth, sheet.naturalHeight));
  const refresh = linked(node);
  const first = [roving(layer, "g"), roving(post, "mark"), roving(list, "button.row")];
  function size({ width, height }) {
    sheet.setAttribute("width", width);
    sheet.setAttribute("height", height);
    enlarge(width, height);
    if (picture) return;
    sheet.setAttribute("viewBox", `0 0 ${width} ${height}`);
    frame.hidden = false;
    told.textContent = UNSEEN;
  }
  return {
    node,
    /** How large the picture is, as the service has it. */
    size,
    /** Entities of an unfinished answer. */
    provisional(entities) {
      for (const [number, entity] of entities.entries()) {
        if (number >= list.children.length) list.append(unfinishedRow(entity, number));
      }
      while (list.children.length > entities.length) list.lastChild.remove();
      note.textContent = "";
    },
    settle(result) {
      size(result.image);
      layer.replaceChildren(...boxes(result));
      post.replaceChildren(...marked(result));
      list.replaceChildren(...result.entities.map(row));
      note.textContent = result.entities.length ? "" : WHY_NONE[result.stop] || `No entities: ${result.stop}.`;
      first.forEach((choose) => choose());
      refresh();
    },
    /** What another policy said otherwise: a list of short texts for each entity. */
    differences(notes) {
      notes.forEach((texts, number) => {
        const place = list.children[number]?.querySelector(".differences");
        place?.replaceChildren(...texts.map((words) => make("span", { class: "difference" }, icon("differs"), words)));
        list.children[number]?.classList.toggle("differs", texts.length > 0);
      });
    },
  };
}
