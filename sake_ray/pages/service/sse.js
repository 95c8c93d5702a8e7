// Reads a stream of server-sent events: bytes in any pieces go in, whole events come out, whatever they mean.

const LONGEST = 64 * 1024 * 1024; // characters of an unfinished event; no answer of the service is near it

/** A parser that takes pieces of text and calls `onEvent(name, data)` for each whole event. */
export function eventParser(onEvent) {
  let rest = "", name = "", data = [], size = 0;

  function takeLine(line) {
    if (line === "") {
      if (data.length) onEvent(name || "message", data.join("\n"));
      name = "";
      data = [];
      size = 0;
      return;
    }
    if (line.startsWith(":")) return; // a keep-alive
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") name = value;
    if (field === "data") {
      data.push(value);
      size += value.length;
    }
  }

  return (piece) => {
    rest += piece;
    let start = 0;
    for (;;) {
      const found = /\r\n|\r|\n/g;
      found.lastIndex = start;
      const end = found.exec(rest);
      // A "\r" at the very end may be half of a "\r\n": the next piece tells.
      if (end === null || (end[0] === "\r" && found.lastIndex === rest.length)) break;
      takeLine(rest.slice(start, end.index));
      start = found.lastIndex;
    }
    rest = rest.slice(start);
    if (rest.length + size > LONGEST) throw new Error("an event of the stream is too long");
  };
}

/** The bytes stopped coming before their end. */
export class StreamBroken extends Error {}

/** Feed a response's body through a parser until it ends; what `onEvent` throws comes out as it is. */
export async function readEvents(body, onEvent) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const take = eventParser(onEvent);
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new StreamBroken(error.message);
      });
      if (done) break;
      take(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {}); // after an error of the page's own nobody reads on
  }
}
