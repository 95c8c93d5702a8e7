// How an answer came about, turn by turn: reasoning, searches with what they found, and the raw text as it was written.
import { make, plural, show } from "./dom.js";

const THUMBNAIL = /^data:image\/(webp|png|jpeg);base64,[A-Za-z0-9+/]+={0,2}$/;
const LONG = 600; // characters of a search's text from which on it begins folded
const ACTIONS = {
  text_search: "searches for text", image_search: "searches by picture", answer: "answers", malformed: "not readable",
};
const STATUS = { success: "found", no_result: "found nothing", failed: "failed" };

function pictureOf(image) {
  const size = `${show(image.width)} × ${show(image.height)}`;
  if (typeof image.thumbnail === "string" && THUMBNAIL.test(image.thumbnail)) {
    return make("img", { src: image.thumbnail, alt: `A picture found, ${size} pixels`, loading: "lazy" });
  }
  return make("span", { class: "chip" }, `picture ${size}, not shown`);
}

function resultOf(found) {
  const status = STATUS[found.status] || String(found.status);
  const text = String(found.text ?? "");
  return make("details", { class: "result", open: text.length <= LONG },
    make("summary", null, make("bdi", { class: "query" }, found.query || "the post's picture"), " ",
      make("span", { class: `chip ${found.status === "success" ? "found" : "missing"}` },
        found.reason ? `${status}: ${found.reason}` : status),
      found.cached ? make("span", { class: "chip" }, "kept from before") : null),
    text ? make("p", { class: "found-text", dir: "auto", tabindex: 0 }, text) : null,
    text || found.images?.length ? null : make("p", { class: "quiet" }, "Nothing came back."),
    found.images?.length ? make("div", { class: "thumbnails" }, found.images.map(pictureOf)) : null);
}

function searchOf({ kind, results, seconds }) {
  const words = kind === "image" ? "Picture search" : "Text search";
  const head = `${words}: ${plural(results.length, "query", "queries")}, ${show(seconds)} s`;
  return make("div", { class: "search" }, make("p", { class: "quiet" }, head), results.map(resultOf));
}

/** The list of turns; it grows while events come. */
export function createTrace() {
  const list = make("ol", { class: "turns" });
  const count = make("span", { class: "quiet" }, "");
  const title = make("summary", null, "How it came about ", count);
  const node = make("details", { class: "trace", open: true }, title, list);
  const turns = new Map();

  function place(index) {
    if (!turns.has(index)) {
      const item = make("li", { class: "turn" });
      turns.set(index, { item, raw: "", live: null, settled: false, searched: false, waiting: null });
      list.append(item);
      count.textContent = `· ${plural(turns.size, "turn")}`;
    }
    return turns.get(index);
  }

  const trace = {
    node,
    /** More text of a turn under way; answers all of it so far. */
    delta(index, text) {
      const turn = place(index);
      if (turn.live === null) {
        turn.live = make("pre", { class: "live", dir: "auto" }, "");
        turn.item.replaceChildren(make("h4", null, `Turn ${index + 1} `, make("span", { class: "chip" }, "writing")),
          turn.live);
      }
      turn.raw += text;
      turn.live.append(text);
      return turn.raw;
    },
    turn(told) {
      const turn = place(told.index);
      turn.settled = true;
      const words = [plural(told.tokens, "token"), `${show(told.generate_s)} s`].join(" · ");
      const action = ACTIONS[told.action] || String(told.action);
      turn.item.replaceChildren(
        make("h4", null, `Turn ${told.index + 1} `,
          make("span", { class: `chip ${told.malformed ? "missing" : ""}` },
            told.malformed ? `${action}: ${told.malformed}` : action),
          " ", make("span", { class: "quiet" }, words)),
        make("p", { class: "reasoning", dir: "auto" }, told.reasoning || "(no reasoning)"),
        make("details", { class: "raw" }, make("summary", null, "Raw text"), make("pre", { dir: "auto" }, told.text)));
      if (told.search) trace.search(told.index, told.search);
      else if (told.action === "text_search" || told.action === "image_search") {
        turn.waiting = make("p", { class: "quiet waiting" }, "Searching …");
        turn.item.append(turn.waiting);
      }
    },
    search(index, search) {
      const turn = place(index);
      turn.searched = true;
      turn.waiting?.remove();
      turn.item.append(searchOf(search));
    },
    /** The whole answer is here: add what no event told. */
    settle(all) {
      for (const told of all) {
        const turn = place(told.index);
        if (!turn.settled) trace.turn(told);
        else if (told.search && !turn.searched) trace.search(told.index, told.search);
        turn.waiting?.remove();
      }
    },
    clear() {
      turns.clear();
      list.replaceChildren();
      count.textContent = "";
    },
  };
  return trace;
}
