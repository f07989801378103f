/** Images that index.html defines once, as symbols. */
const SVG = "http://www.w3.org/2000/svg";

/** @param {string} name of the symbol, without "i-" */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
