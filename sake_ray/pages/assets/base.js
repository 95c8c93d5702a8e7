// What both pages' scripts share. Texts go in by textContent only: nothing from data is ever read as HTML.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
function readBlock(id) {
  const block = byId(id);
  return block === null ? null : JSON.parse(block.textContent);
}
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}
const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
function show(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return String(Number(value.toPrecision(2)));
  return value.toFixed(digits);
}

// The values of every line under the pointer.
for (const chart of document.querySelectorAll("svg[data-points]")) {
  let lines = null, scale = null, tip = null, cursor = null;
  const leave = () => { if (tip) { tip.remove(); cursor.remove(); tip = null; } };
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", (event) => {
    if (lines === null) { lines = JSON.parse(chart.dataset.points); scale = JSON.parse(chart.dataset.scale); }
    const [x0, x1, , , left, right, top, bottom] = scale;
    const place = chart.getBoundingClientRect();
    const at = (event.clientX - place.left) / place.width * 360;
    const wanted = x0 + (at - left) / (right - left) * (x1 - x0);
    let nearest = null;
    for (const [, points] of lines) for (const [x] of points) {
      if (nearest === null || Math.abs(x - wanted) < Math.abs(nearest - wanted)) nearest = x;
    }
    const texts = lines.map(([name, points]) => [name, points.find(([x]) => x === nearest)]).filter(([, p]) => p);
    if (tip === null) {
      tip = make("div", { class: "tip", "aria-hidden": "true" });
      cursor = draw("line", { class: "cursor", y1: top, y2: bottom });
      chart.parentNode.append(tip);
      chart.append(cursor);
    }
    const where = left + (nearest - x0) / (x1 - x0) * (right - left);
    cursor.setAttribute("x1", where);
    cursor.setAttribute("x2", where);
    tip.textContent = [`step ${show(nearest, 1)}`, ...texts.map(([name, p]) => `${name} ${show(p[1], 3)}`)].join("\n");
    tip.style.left = `${Math.max(0, Math.min(where / 360 * place.width + 8, place.width - tip.offsetWidth))}px`;
  });
}

// Help.
const help = byId("help");
function openHelp() { if (help && !help.open) help.showModal(); }
for (const button of document.querySelectorAll("[data-help]")) button.addEventListener("click", openHelp);
