// Texts as the service counts them: Unicode code points, where JavaScript counts UTF-16 units. And what can be read
// from the raw text of a turn that is still being written.

const MOST_ENTITIES = 64;

/** For each code point of `text` its place in the string, and at the end the string's length. */
function places(text) {
  const found = [];
  let at = 0;
  for (const character of text) {
    found.push(at);
    at += character.length;
  }
  found.push(at);
  return found;
}

export const countPoints = (text) => {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
};

/** At most `most` code points of a text. */
export function shorten(text, most) {
  const points = [...String(text).slice(0, most * 2 + 2)];
  return points.length <= most ? String(text) : `${points.slice(0, most - 1).join("")}…`;
}

/** The part of `text` between two code points. */
export function cut(text, span) {
  const at = places(text);
  return text.slice(at[span[0]], at[span[1]]);
}

/**
 * `text` in pieces, each with the numbers of the entities that cover it. Spans may overlap, nest or be nonsense (these
 * cover nothing); the pieces put together are always the text.
 */
export function segments(text, spans) {
  const at = places(text), last = at.length - 1;
  const good = spans.map((span) => {
    const whole = Array.isArray(span) && span.length === 2 && span.every(Number.isInteger);
    return whole && span[0] >= 0 && span[0] < span[1] && span[1] <= last ? span : null;
  });
  const borders = new Set([0, last]);
  for (const span of good) if (span) span.forEach((border) => borders.add(border));
  const ordered = [...borders].sort((a, b) => a - b);
  const pieces = [];
  for (let i = 0; i + 1 < ordered.length; i += 1) {
    const [start, end] = [ordered[i], ordered[i + 1]];
    const covering = good.flatMap((span, number) => (span && span[0] <= start && end <= span[1] ? [number] : []));
    const ending = good.flatMap((span, number) => (span && span[1] === end ? [number] : []));
    pieces.push({ text: text.slice(at[start], at[end]), covering, ending });
  }
  return pieces;
}

/** Entities of an answer that is still being written: those whose JSON is whole. Their boxes are not for people yet. */
export function unfinishedEntities(raw) {
  const tag = raw.lastIndexOf("<answer>");
  if (tag < 0) return [];
  const found = [];
  let depth = 0, start = -1, quoted = false, escaped = false;
  for (let i = tag + "<answer>".length; i < raw.length && found.length < MOST_ENTITIES; i += 1) {
    const character = raw[i];
    if (quoted) {
      if (escaped) escaped = false;
      else if (character === "\\") escaped = true;
      else if (character === '"') quoted = false;
    } else if (character === '"') quoted = true;
    else if (character === "{") {
      if (depth === 0) start = i;
      depth += 1;
    } else if (character === "}" && depth > 0) {
      depth -= 1;
      if (depth === 0) found.push(raw.slice(start, i + 1));
    } else if (character === "<" && raw.startsWith("</answer>", i)) break;
  }
  return found.flatMap((json) => {
    try {
      const { entity, type } = JSON.parse(json);
      return typeof entity === "string" && typeof type === "string" ? [{ text: entity, type }] : [];
    } catch {
      return []; // the model's JSON is not JSON: the service will say so when the turn ends
    }
  });
}
