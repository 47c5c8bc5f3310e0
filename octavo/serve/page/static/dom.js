/** Elements, in few words. */

import { translate } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  plus: "M12 5v14M5 12h14", menu: "M4 7h16M4 12h16M4 17h16", send: "M12 19V5M6 11l6-6 6 6", stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10", edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4", again: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  fork: "M6 4v6a4 4 0 0 0 4 4h8M14 10l4 4-4 4M6 10v10", left: "M15 6l-6 6 6 6", right: "M9 6l6 6-6 6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13", sliders: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  compare: "M4 5h7v14H4zM13 5h7v14h-7z", close: "M6 6l12 12M18 6L6 18", check: "M5 13l4 4L19 7",
  down: "M12 5v14M6 13l6 6 6-6", skip: "M5 6l8 6-8 6zM17 6v12", more: "M5 12h.01M12 12h.01M19 12h.01",
};

/**
 * An element. Of `props`, functions become listeners (`onclick`), booleans attributes that are there or not.
 * @param {string} spec tag and classes, as "button.quiet"
 * @param {Record<string, any>} props
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
export function h(spec, props = {}, ...children) {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null));
  translate(element);
  return element;
}

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", "icon");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/**
 * A button that shows a picture only; its words are its name.
 * @param {keyof typeof ICONS} name
 * @param {string} words key of its name
 * @param {(event: Event) => void} onclick
 */
export function iconButton(name, words, onclick) {
  return h("button.icon-button", { type: "button", "data-t-label": words, onclick }, icon(name));
}

/** @param {string} id @returns {any} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found;
}

/**
 * Put text on the clipboard and say so on the button for a moment.
 * @param {string} text @param {HTMLElement} button
 */
export async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else copyByHand(text, button);
  const shown = button.querySelector("svg");
  shown?.replaceWith(icon("check"));
  setTimeout(() => button.querySelector("svg")?.replaceWith(icon("copy")), 1500);
}

/**
 * Copy as if it were selected: over plain HTTP from another machine a browser gives no clipboard.
 * @param {string} text @param {HTMLElement} button gets the focus back
 */
function copyByHand(text, button) {
  const box = h("textarea", { readonly: true });
  box.value = text;
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
  button.focus();
}
