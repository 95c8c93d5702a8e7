// What two policies said differently about one post: which entity of one is which of the other, and what differs.
import { boxOf } from "./view.js";

/** Boxes that overlap by less than this part of their union count as different. */
export const SAME_BOX = 0.5;

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

const name = (entity) => String(entity.text).trim().toLocaleLowerCase("en");
const place = (entity) => (Array.isArray(entity.span) ? entity.span.join("-") : "");

/** Pairs [number here, number there]; the same place in the post goes before the same name elsewhere. */
function pairs(here, there) {
  const free = new Set(there.keys()), found = new Map();
  const take = (same) => here.forEach((entity, number) => {
    if (found.has(number)) return;
    const other = [...free].find((candidate) => same(entity, there[candidate]));
    if (other === undefined) return;
    found.set(number, other);
    free.delete(other);
  });
  take((a, b) => name(a) === name(b) && place(a) === place(b) && a.type === b.type);
  take((a, b) => name(a) === name(b) && place(a) === place(b));
  take((a, b) => name(a) === name(b));
  return found;
}

function against(here, there, other) {
  const found = pairs(here, there);
  return here.map((entity, number) => {
    if (!found.has(number)) return ["only here"];
    const twin = there[found.get(number)], said = [];
    if (twin.type !== entity.type) said.push(`type: ${other} says ${twin.type}`);
    const mine = boxOf(entity), theirs = boxOf(twin);
    if (mine && !theirs) said.push(`box: ${other} has none`);
    else if (!mine && theirs) said.push(`box: ${other} has one`);
    else if (mine && overlap(mine, theirs) < SAME_BOX) said.push(`box: ${other} has it elsewhere`);
    return said;
  });
}

/** For each entity of the first and of the second result a list of short texts; empty where both say the same. */
export function differences(first, second) {
  return [
    against(first.entities, second.entities, second.policy.name),
    against(second.entities, first.entities, first.policy.name),
  ];
}
