// The service's examples, in groups, each a button with its picture. Pictures are asked for when they come into sight.
import { picture } from "./api.js";
import { byId, make } from "./dom.js";

let known = [];

const lazily = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    lazily.unobserve(target);
    picture(target.dataset.path, false).then((blob) => { target.src = URL.createObjectURL(blob); }, () => {
      target.alt = "picture not loaded"; // a click asks again, and says so if it fails then too
    });
  }
});

function button(example, choose) {
  const image = make("img", { alt: "", width: 48, height: 48, "data-path": example.image });
  lazily.observe(image);
  return make("li", null, make("button", { type: "button", class: "example", onclick: () => choose(example) }, image,
    make("span", { class: "words" }, make("span", { class: "example-text", dir: "auto" }, example.text),
      example.note ? make("span", { class: "note" }, example.note) : null)));
}

/** Show them; `choose(example)` is called for the one that is clicked. */
export function showExamples(list, choose) {
  known = list;
  const groups = new Map();
  for (const example of list) groups.set(example.group, [...groups.get(example.group) ?? [], example]);
  byId("examples").replaceChildren(...[...groups].map(([group, members]) => make("div", { class: "group" },
    make("h3", null, group === "yours" ? "Yours" : group),
    make("ul", null, members.map((example) => button(example, choose))))));
  if (!list.length) byId("examples").append(make("p", { class: "quiet" }, "The service has no examples."));
}

/** One of them by its id, or undefined. */
export const exampleOf = (id) => known.find((example) => example.id === id);

/** An example's picture as the form takes it. */
export async function pictureOf(example) {
  return { blob: await picture(example.image), name: `Picture of example ${example.id}`, example: example.id };
}
