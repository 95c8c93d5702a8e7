// What can be taken away: the result as JSON, the picture with its boxes as a PNG, and a link that restores the view.
import { download } from "./dom.js";
import { boxOf, kind } from "./view.js";
import { shorten } from "./points.js";

const LONGEST_HASH = 8_000;
const NAMES = ["text", "example", "address", "picture"];
const LEAST_SIDE = 640, MOST_SIDE = 4_096; // pixels of the PNG: small pictures are enlarged so that labels can be read
const COLOURS = ["#62b6ff", "#ff9f40", "#3fdc5e", "#c9a6ff", "#ff7ac6", "#ffd75e", "#e3e8ee", "#4fd6e6"];

const fileName = (result, ending) => {
  const words = [result.policy?.name, result.id].map((word) => String(word ?? "").replace(/[^A-Za-z0-9_-]+/g, "-"));
  return `${["entities", ...words].filter(Boolean).join("-").slice(0, 100)}.${ending}`;
};

export function saveJson(result) {
  download(fileName(result, "json"), new Blob([`${JSON.stringify(result, null, 2)}\n`], { type: "application/json" }));
}

function label(context, words, [x1, y1, x2], size, edge) {
  const width = context.measureText(words).width + size * 0.5, height = size * 1.35;
  const left = Math.max(0, Math.min(x1, edge - width, Math.max(x1, x2 - width)));
  const top = y1 >= height ? y1 - height : y1;
  context.fillRect(left, top, width, height);
  context.fillStyle = "#0d1117";
  context.fillText(words, left + size * 0.25, top + height / 2);
}

/** The picture with every box and its label drawn over it. */
export async function savePicture(result, address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const long = Math.max(image.naturalWidth, image.naturalHeight);
  const scale = Math.min(Math.max(1, Math.ceil(LEAST_SIDE / long)), MOST_SIDE / long);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(image.naturalWidth * scale);
  canvas.height = Math.round(image.naturalHeight * scale);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 3;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const size = Math.max(14, Math.round(canvas.width / 40));
  const across = canvas.width / result.image.width, down = canvas.height / result.image.height;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  result.entities.forEach((entity, number) => {
    const box = boxOf(entity);
    if (!box) return;
    const [x1, y1, x2, y2] = [box[0] * across, box[1] * down, box[2] * across, box[3] * down];
    for (const [colour, width] of [["rgb(0 0 0 / .6)", size / 3], [COLOURS[Number(kind(entity.type)[1])], size / 6]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    context.fillStyle = COLOURS[Number(kind(entity.type)[1])];
    label(context, `${number + 1} ${shorten(entity.text, 24)} · ${entity.type}`, [x1, y1, x2], size, canvas.width);
  });
  const blob = await new Promise((done) => { canvas.toBlob(done, "image/png"); });
  download(fileName(result, "png"), blob);
}

/** A request as a link's hash, and what of it the link cannot carry ("picture", "text"). */
export function linkOf({ text, options, policies, example, address }) {
  const parts = new URLSearchParams();
  const left = [];
  if (example) parts.set("example", example);
  else if (address) parts.set("address", address);
  else {
    parts.set("picture", "own");
    left.push("picture");
  }
  for (const [name, value] of Object.entries(options)) parts.set(name, String(value));
  for (const name of policies) parts.append("policy", name);
  const bare = `#${parts}`;
  parts.set("text", text);
  const whole = `#${parts}`;
  if (whole.length <= LONGEST_HASH) return { hash: whole, left };
  return { hash: bare, left: [...left, "text"] };
}

/** What a link's hash holds; nothing of it is believed: the form takes only what its fields allow. */
export function readLink(hash) {
  if (hash.length > LONGEST_HASH || hash.length < 2) return null;
  const parts = new URLSearchParams(hash.slice(1));
  if (!NAMES.some((name) => parts.has(name))) return null;
  const others = [...parts].filter(([name]) => ![...NAMES, "policy"].includes(name));
  const options = Object.fromEntries(others);
  return {
    text: parts.get("text"), example: parts.get("example"), address: parts.get("address"),
    own: parts.get("picture") === "own", options, policies: parts.getAll("policy"),
  };
}
