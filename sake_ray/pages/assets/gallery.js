// The gallery: cards are filled when they come near, filtered and sorted by a small index, moved through by keys.
"use strict";
const index = readBlock("gallery-index");
const place = byId("cards"), count = byId("count"), controls = byId("controls");
const state = { q: "", sort: meta.sorts[0].key, current: -1, facets: {} };
const cards = [];
let shown = [];

const detailOf = (at) => readBlock(`d${at}`);
function filled(at) {
  if (!cards[at].dataset.chosen) fillCard(cards[at], detailOf(at), 0);
  return cards[at];
}
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) { filled(Number(entry.target.dataset.at)); watcher.unobserve(entry.target); }
  }
}, { rootMargin: "900px 0px" });

index.forEach((item, at) => {
  item.words = `${item.id} ${item.text} ${item.words}`.toLowerCase();
  const card = make("article", { class: "card", tabindex: "-1", "data-at": at, "aria-labelledby": `h${at}` },
    make("h3", { id: `h${at}` }, make("a", { href: `#post=${encodeURIComponent(item.id)}` }, item.title)), make("p", { class: "post" }, item.text));
  card.addEventListener("focusin", () => setCurrent(shown.indexOf(at), false));
  cards.push(card);
});

function control(label, node, wide) {
  controls.append(make("label", { class: wide ? "grow" : null }, label, node));
  return node;
}
const search = control("Search in texts, entities, queries", make("input", { type: "search", id: "find", autocomplete: "off", spellcheck: "false" }), true);
let waiting = 0;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { state.q = search.value; apply(); }, 80); });
const selects = {};
for (const facet of meta.facets) {
  const counts = new Map();
  for (const item of index) for (const value of item.facets[facet.key] || []) counts.set(value, (counts.get(value) || 0) + 1);
  if (counts.size < 2) continue;
  const values = facet.ordered ? facet.ordered.filter((value) => counts.has(value)) : [...counts.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const node = make("select", { "data-facet": facet.key }, make("option", { value: "" }, "any"),
    values.map((value) => make("option", { value }, `${value} (${counts.get(value)})`)));
  node.addEventListener("change", () => { state.facets[facet.key] = node.value; apply(); });
  selects[facet.key] = control(facet.label, node);
}
const sorter = control("Order", make("select", { id: "sort" }, meta.sorts.map((one) => make("option", { value: one.key }, one.label))));
sorter.addEventListener("change", () => { state.sort = sorter.value; apply(); });
const reset = make("button", { type: "button" }, "Clear");
reset.addEventListener("click", () => { load(new URLSearchParams()); });
controls.append(reset);

function apply() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = Object.entries(state.facets).filter(([, value]) => value);
  shown = [];
  index.forEach((item, at) => {
    const fits = wanted.every(([key, value]) => (item.facets[key] || []).includes(value)) && words.every((word) => item.words.includes(word));
    if (fits) shown.push(at);
    cards[at].hidden = !fits;
  });
  const order = meta.sorts.find((one) => one.key === state.sort) || meta.sorts[0];
  if (order.value) {
    const sign = order.down ? -1 : 1, value = (at) => index[at].values[order.value];
    shown.sort((a, b) => {
      const left = value(a), right = value(b);
      if (left === right || (left === undefined && right === undefined)) return a - b;
      if (left === undefined || right === undefined) return left === undefined ? 1 : -1; // what has no value comes last
      return sign * (left - right);
    });
  }
  place.replaceChildren(...shown.map((at) => cards[at]));
  count.textContent = `${shown.length.toLocaleString("en-US")} of ${index.length.toLocaleString("en-US")} ${meta.unit}`;
  for (const at of shown) if (!cards[at].dataset.chosen) watcher.observe(cards[at]);
  state.current = -1;
  for (const card of place.querySelectorAll(".current")) card.classList.remove("current");
  save();
}

function setCurrent(position, move) {
  if (position < 0 || position >= shown.length) return;
  if (state.current >= 0 && shown[state.current] !== undefined) cards[shown[state.current]].classList.remove("current");
  state.current = position;
  const card = filled(shown[position]);
  card.classList.add("current");
  if (move) {
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "start", behavior: "instant" });
  }
  save();
}

function save() {
  const parts = new URLSearchParams();
  if (state.current >= 0) parts.set("post", index[shown[state.current]].id);
  if (state.q) parts.set("q", state.q);
  for (const [key, value] of Object.entries(state.facets)) if (value) parts.set(key, value);
  if (state.sort !== meta.sorts[0].key) parts.set("sort", state.sort);
  const hash = parts.toString();
  if (hash || location.hash.includes("=")) history.replaceState(null, "", `#${hash}`);
}

function load(parts) {
  state.q = search.value = parts.get("q") || "";
  for (const [key, node] of Object.entries(selects)) {
    node.value = parts.get(key) || "";
    state.facets[key] = node.value;
  }
  const sort = parts.get("sort");
  state.sort = sorter.value = meta.sorts.some((one) => one.key === sort) ? sort : meta.sorts[0].key;
  const post = parts.get("post");
  apply();
  if (post === null) return;
  const position = shown.findIndex((at) => index[at].id === post);
  if (position >= 0) setCurrent(position, true);
  else count.textContent += `; ${post} is not among them`;
}
const fromHash = () => { if (location.hash.includes("=")) load(new URLSearchParams(location.hash.slice(1))); };
window.addEventListener("hashchange", fromHash);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || (help && help.open)) return;
  const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (inField) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const onCard = event.target.closest(".card") !== null;
  const scroller = event.target.closest(".wide, .sides") !== null;
  const current = () => (state.current >= 0 ? cards[shown[state.current]] : null);
  const moves = { j: state.current + 1, k: Math.max(0, state.current - 1), g: 0, G: shown.length - 1 };
  if (onCard && !scroller) Object.assign(moves, { ArrowDown: moves.j, ArrowUp: moves.k });
  if (event.key in moves) setCurrent(moves[event.key], true);
  else if (event.key === "/") { search.focus(); search.select(); }
  else if (event.key === "?") openHelp();
  else if (event.key === "o" && current()) { const part = current().querySelector("details"); part.open = !part.open; }
  else if ((event.key === "[" || event.key === "]") && current()) {
    const detail = detailOf(shown[state.current]), now = Number(current().dataset.chosen);
    const next = now + (event.key === "]" ? 1 : -1);
    if (next >= 0 && next < detail.members.length) fillCard(current(), detail, next);
  } else return;
  event.preventDefault();
});

if (location.hash.includes("=")) fromHash();
else apply();
document.documentElement.dataset.ready = "yes";
