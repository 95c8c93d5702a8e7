// One card: a post, its picture with boxes, and one or several answers to it.
"use strict";
const SIGNS = { right: "✓", box: "▢", type: "T", type_box: "T▢", boundary: "↔", missed: "∅", spurious: "+", duplicate: "≡" };
const meta = readBlock("gallery-meta");
const kindName = (kind) => (meta.kinds[kind] || kind);
const boxText = (box) => (box ? `[${box.map((side) => Math.round(side)).join(", ")}]` : "no box");

function picture(detail, member) {
  const [width, height] = detail.size || [320, 240];
  const boxes = draw("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const outline = (box, kind, extra, index) => {
    const place = {
      x: Math.min(box[0], box[2]), y: Math.min(box[1], box[3]),
      width: Math.abs(box[2] - box[0]), height: Math.abs(box[3] - box[1]),
    };
    boxes.append(draw("g", { class: `k-${kind} pair-${index}` },
      draw("rect", { ...place, class: `under ${extra}` }), draw("rect", { ...place, class: extra })));
  };
  member.marks.forEach(([kind, gold], index) => {
    if (gold !== null) for (const box of detail.gold[gold].boxes) outline(box, kind, "gold", index);
  });
  // On top, so that an answered box is seen where it lies on another entity's.
  member.marks.forEach(([kind, , claim], index) => {
    if (claim !== null && member.claims[claim].box && kind !== "right") outline(member.claims[claim].box, kind, "said", index);
  });
  const block = detail.pic ? byId(detail.pic) : null;
  const frame = make("div", { class: `pic${block ? "" : " empty"}${Math.max(width, height) < 160 ? " small" : ""}` });
  if (block) frame.append(make("img", { src: block.textContent, alt: "", width, height, decoding: "async" }));
  frame.append(boxes);
  const drawn = member.marks.filter(([, g]) => g !== null && detail.gold[g].boxes.length).length;
  const words = `${drawn} gold ${drawn === 1 ? "entity has a box" : "entities have boxes"}`;
  return make("figure", {}, frame,
    make("figcaption", { class: "note" }, block ? `${words}: gold solid, answered dashed` : `${words}; no picture: ${detail.missing}`));
}

// Where the entities stand in the text; each occurrence serves one entity.
function marked(detail, member) {
  const text = detail.text, spans = [];
  const place = (entity, kind, type) => {
    if (!entity) return;
    const low = text.toLowerCase(), wanted = entity.trim().toLowerCase();
    if (low.length !== text.length || !wanted) return;
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, at + 1)) {
      const end = at + wanted.length;
      const whole = (at === 0 || low[at - 1] === " ") && (end === low.length || low[end] === " ");
      if (whole && !spans.some((span) => at < span.end && span.at < end)) { spans.push({ at, end, kind, type }); return; }
    }
  };
  const said = (claim) => (claim === null ? null : member.claims[claim]);
  for (const [kind, gold] of member.marks) if (gold !== null) place(detail.gold[gold].entity, kind, detail.gold[gold].type);
  for (const [kind, gold, claim] of member.marks) if (gold === null) place(said(claim).entity, kind, said(claim).type);
  spans.sort((a, b) => a.at - b.at);
  const out = make("p", { class: "post" });
  let from = 0;
  for (const span of spans) {
    out.append(text.slice(from, span.at));
    out.append(make("mark", { class: `k-${span.kind}`, title: kindName(span.kind) }, text.slice(span.at, span.end), make("sup", {}, span.type)));
    from = span.end;
  }
  out.append(text.slice(from));
  return out;
}

function pairs(detail, member, card) {
  const list = make("ul", { class: "pairs" });
  member.marks.forEach(([kind, gold, claim], index) => {
    const g = gold === null ? null : detail.gold[gold], c = claim === null ? null : member.claims[claim];
    const line = make("li", { class: `k-${kind}` }, make("b", {}, `${SIGNS[kind] || "?"} ${kindName(kind)}`));
    if (g) {
      const facts = [g.coarse, g.difficulty, g.seen === true ? "seen in training" : g.seen === false ? "not seen in training" : "",
        g.samples ? `${g.hits} of ${g.samples} samples right without tools` : ""].filter(Boolean);
      line.append(`${g.entity} · ${g.type} `, make("span", { class: "mono" }, g.boxes.length ? g.boxes.map(boxText).join(" ") : "no box"));
      if (facts.length) line.append(make("span", { class: "quiet" }, `  (${facts.join(", ")})`));
    }
    if (c && kind !== "right") {
      line.append(g ? make("br") : "", make("span", { class: "quiet" }, "answered: "), `${c.entity} · ${c.type} `,
        make("span", { class: "mono" }, boxText(c.box)));
    }
    const light = (on) => { for (const node of card.querySelectorAll(`.pic .pair-${index}`)) node.classList.toggle("lit", on); };
    line.addEventListener("pointerenter", () => light(true));
    line.addEventListener("pointerleave", () => light(false));
    list.append(line);
  });
  if (!member.marks.length) list.append(make("li", { class: "k-right" }, "no entity in gold, and none was answered"));
  return list;
}

function result(item) {
  const status = [item.status, item.reason, item.cached ? "from the cache" : ""].filter(Boolean).join(", ");
  const refs = make("div", { class: "refs" });
  for (const ref of item.pics) {
    const block = ref.pic ? byId(ref.pic) : null;
    refs.append(block ? make("img", { src: block.textContent, alt: `found for ${item.query}`, decoding: "async" })
      : make("span", { class: "note" }, `picture not shown: ${ref.missing}`));
  }
  return make("div", { class: "result" }, make("p", {}, make("strong", {}, item.query), " ", make("span", { class: "chip" }, status)),
    item.text ? make("p", {}, item.text) : null, item.pics.length ? refs : null);
}

function turns(member) {
  const list = make("ol", { class: "turns" });
  for (const turn of member.turns) {
    const found = /^\s*<reason>([\s\S]*?)<\/reason>([\s\S]*)$/.exec(turn.text);
    const times = [turn.generate_s === null ? "" : `${show(turn.generate_s)} s to generate`,
      turn.search_s === null ? "" : `${show(turn.search_s)} s to search`].filter(Boolean).join(", ");
    const name = turn.action + (turn.reason ? ` (${turn.reason})` : "");
    list.append(make("li", {}, make("span", { class: "chip" }, name), " ", make("span", { class: "note" }, times),
      found ? make("p", { class: "reason" }, found[1].trim()) : null,
      make("pre", {}, (found ? found[2] : turn.text).trim() || "(nothing)"), (turn.results || []).map(result)));
  }
  return member.turns.length ? list : make("p", { class: "note" }, "No episode was recorded for this answer.");
}

function facts(member) {
  const list = make("dl", { class: "facts" });
  const add = (name, value) => { if (value !== null && value !== undefined && value !== "") list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value))); };
  add("F1 of this post", show(member.f1));
  for (const [name, value] of Object.entries(member.reward || {})) add(name.replaceAll("_", " "), show(value));
  if (member.advantage !== null) add("advantage", show(member.advantage));
  add("ended by", member.stop);
  add("tokens", member.tokens === null ? "" : `${show(member.tokens)}, ${show(member.sampled)} of them sampled`);
  add("policy version", member.version === null ? "" : show(member.version));
  add("worker", member.worker);
  for (const [name, value] of Object.entries(member.extra || {})) add(name, String(value));
  return list;
}

// What was done, in one line: each search with its queries and what became of them, then how it ended.
function path(member) {
  const line = make("p", { class: "path" });
  member.turns.forEach((turn, at) => {
    const asked = (turn.results || []).map((one) => `“${one.query}” ${one.status}${one.reason ? ` (${one.reason})` : ""}`).join(", ");
    line.append(at ? " → " : "", make("span", { class: "chip" }, turn.action + (turn.reason ? `: ${turn.reason}` : "")), asked ? ` ${asked}` : "");
  });
  return line;
}

// How the answers to one post differ: a column each.
function comparison(detail, chosen, choose) {
  const members = detail.members;
  const rows = [];
  const add = (name, texts, classes) => {
    if (texts.every((text) => text === "–" || text === "")) return;
    const same = texts.every((text) => text === texts[0]);
    rows.push(make("tr", { class: same ? "same" : null }, make("th", { scope: "row" }, name),
      texts.map((text, index) => make("td", { class: classes ? classes[index] : null }, text))));
  };
  const parts = [...new Set(members.flatMap((member) => Object.keys(member.reward || {})))];
  add("reward", members.map((member) => show((member.reward || {}).total)));
  add("advantage", members.map((member) => show(member.advantage)),
    members.map((member) => (member.advantage > 0 ? "plus" : member.advantage < 0 ? "minus" : null)));
  for (const part of parts.filter((part) => part !== "total")) {
    const texts = members.map((member) => show((member.reward || {})[part]));
    if (new Set(texts).size > 1) add(part.replaceAll("_", " "), texts);
  }
  add("turns", members.map((member) => member.turns.map((turn) => turn.action).join(" → ") || "–"));
  add("asked", members.map((member) => member.turns.flatMap((turn) => (turn.results || []).map((one) => one.query)).join("; ") || "–"));
  add("ended by", members.map((member) => member.stop || "–"));
  detail.gold.forEach((gold, index) => {
    const marks = members.map((member) => member.marks.find((mark) => mark[1] === index));
    const said = (member, claim) => (claim === null ? "" : ` ${member.claims[claim].type} ${boxText(member.claims[claim].box)}`);
    add(`${gold.entity} · ${gold.type}`,
      marks.map((mark, at) => (mark ? `${SIGNS[mark[0]]} ${kindName(mark[0])}${mark[0] === "right" ? "" : said(members[at], mark[2])}` : "–")));
  });
  add("not in gold", members.map((member) => member.marks.filter((mark) => mark[1] === null)
    .map((mark) => `${member.claims[mark[2]].entity} · ${member.claims[mark[2]].type}`).join("; ") || "–"));
  add("sampled tokens", members.map((member) => show(member.sampled)));
  const heads = members.map((member, index) => {
    const button = make("button", { type: "button", "aria-pressed": String(index === chosen) }, member.name);
    button.addEventListener("click", () => choose(index));
    return make("th", { scope: "col" }, button);
  });
  return make("div", { class: "wide members", tabindex: "0", role: "region", "aria-label": "how the answers differ" },
    make("table", {}, make("caption", {}, "How the answers differ; rows that are the same for all are grey"),
      make("thead", {}, make("tr", {}, make("td"), heads)), make("tbody", {}, rows)));
}

function fillCard(card, detail, chosen) {
  const title = card.querySelector("h3");
  const opened = [...card.querySelectorAll("details")].map((part) => part.open);
  const member = detail.members[chosen];
  const body = make("div", { class: "split" }, picture(detail, member),
    make("div", {}, marked(detail, member), pairs(detail, member, card), path(member), facts(member)));
  const lazy = (name, build) => {
    const part = make("details", {}, make("summary", {}, name));
    part.addEventListener("toggle", () => { if (part.open && part.children.length === 1) part.append(build()); });
    return part;
  };
  const count = member.turns.length;
  const trace = lazy(`${detail.members.length > 1 ? `${member.name}: ` : ""}${count} ${count === 1 ? "turn" : "turns"}: reasoning, searches, answer`, () => turns(member));
  const several = detail.members.length > 1;
  card.replaceChildren(title, body, trace);
  if (several) {
    body.before(comparison(detail, chosen, (index) => fillCard(card, detail, index)));
    card.append(lazy(`All ${detail.members.length} side by side`, () => make("div", { class: "sides", tabindex: "0", role: "region", "aria-label": "all answers side by side" },
      detail.members.map((one) => make("section", { "aria-label": one.name }, make("h4", {}, one.name), facts(one), pairs(detail, one, card), turns(one))))));
  }
  card.dataset.chosen = String(chosen);
  card.querySelectorAll("details").forEach((part, index) => { part.open = opened[index] || false; });
}
