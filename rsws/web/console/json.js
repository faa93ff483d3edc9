// JSON for reading: indented without being parsed, so that numbers and the order of keys stay as they were published.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const MAX_COLOURED = 20_000; // characters: each piece of colour is an element

export function indent(text) {
  let depth = 0, out = "", previous = "";
  const line = () => `\n${"  ".repeat(Math.min(depth, 40))}`;
  for (const [token] of text.matchAll(TOKEN)) {
    const isEnd = token === "}" || token === "]";
    if (isEnd) depth--;
    if (previous === "{" || previous === "[" ? !isEnd : isEnd || previous === ",") out += line();
    out += token === ":" ? ": " : token;
    if (token === "{" || token === "[") depth++;
    previous = token;
  }
  return out;
}

const PIECE = /("(?:[^"\\]|\\.)*")(:?)|[-\d][\d.eE+-]*|true|false|null/g;

export function showJson(element, text) {
  if (text.length > MAX_COLOURED) return (element.textContent = text);
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(PIECE)) {
    const [all, string, colon] = match;
    const piece = document.createElement("span");
    piece.className = string ? (colon ? "key" : "string") : "value";
    piece.textContent = string ?? all;
    pieces.push(text.slice(end, match.index), piece, colon ?? "");
    end = match.index + all.length;
  }
  element.replaceChildren(...pieces, text.slice(end));
}
