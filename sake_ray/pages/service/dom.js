// Small helpers to build elements. Texts go in as text nodes only: nothing that is told to the page is HTML.

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  known: ["M3 8.5 6.5 12 13 4.5"],
  searched: ["M11 7A4 4 0 1 1 3 7A4 4 0 1 1 11 7Z", "M10 10 14 14"],
  differs: ["M3 6H13", "M3 10H13", "M11 3 5 13"],
};

export const byId = (id) => document.getElementById(id);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

/** An element with attributes (`onclick` and the like are listeners) and children; strings become text. */
export const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** A line drawing in the colour of the text around it; the words beside it say what it means. */
export function icon(name) {
  return draw("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" },
    ICONS[name].map((path) => draw("path", { d: path })));
}

/** A whole number or one with a few digits, for people. */
export function show(value, digits = 2) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return Number.isInteger(value) ? value.toLocaleString("en-US") : value.toFixed(digits);
}

export const plural = (count, one, many = `${one}s`) => `${show(count)} ${count === 1 ? one : many}`;

/** One tab stop for a group: arrow keys, Home and End move within what `selector` finds. */
export function roving(group, selector) {
  const all = () => [...group.querySelectorAll(selector)];
  const choose = (chosen) => {
    for (const item of all()) item.setAttribute("tabindex", item === chosen ? "0" : "-1");
  };
  group.addEventListener("keydown", (event) => {
    const items = all(), at = items.indexOf(event.target.closest(selector));
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const to = {
      ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: items.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = items[Math.max(0, Math.min(items.length - 1, to))];
    choose(next);
    next.focus();
  });
  group.addEventListener("focusin", (event) => {
    const item = event.target.closest(selector);
    if (item) choose(item);
  });
  return () => choose(all()[0]);
}

/** Hand a file to the person. */
export function download(name, blob) {
  const address = URL.createObjectURL(blob);
  const link = make("a", { href: address, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
