// Elements, made and found. Text from data goes in as text, never as markup.

/** @typedef {Node | string | null | undefined} Child */

/** An element. Attributes `on…` are listeners; true and false set and leave out an attribute.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, unknown>} [attributes] @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]} */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function")
      made.addEventListener(name.slice(2), /** @type {any} */ (value));
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An SVG element. @param {string} tag @param {Record<string, string | number>} [attributes]
 * @param {...Child} children @returns {SVGElement} */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, `${value}`);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The part of the page with this name. @param {ParentNode} root @param {string} name
 * @returns {HTMLElement} */
export function part(root, name) {
  const found = root.querySelector(`[data-part="${name}"]`);
  if (!(found instanceof HTMLElement)) throw new Error(`the page has no part ${name}`);
  return found;
}

/** A canvas cleared and scaled for the screen; drawn on in CSS pixels.
 * @param {HTMLCanvasElement} canvas @param {number} width @param {number} height */
export function sharp(canvas, width, height) {
  const ratio = globalThis.devicePixelRatio || 1;
  const size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) {
    [canvas.width, canvas.height] = size;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Buttons of which one is pressed. @template T @param {HTMLElement} group
 * @param {[T, string][]} choices @param {(value: T) => void} choose
 * @returns {(value: T) => void} shows which one is pressed */
export function choice(group, choices, choose) {
  const buttons = choices.map(([value, label]) =>
    el("button", { type: "button", onclick: () => choose(value) }, label),
  );
  group.replaceChildren(...buttons);
  return (value) =>
    buttons.forEach((button, i) =>
      button.setAttribute("aria-pressed", `${choices[i][0] === value}`),
    );
}
