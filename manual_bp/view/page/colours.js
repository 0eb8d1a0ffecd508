// One scale for amounts (a, σ′) and one with two ends for signed numbers (z, error, δ, W).

/** @typedef {[number, number, number]} Colour */
/** @typedef {{paper: Colour, amount: Colour, minus: Colour, plus: Colour, ink: Colour,
 *   faint: Colour, line: Colour, grid: Colour, accent: Colour}} Palette */

/** The colours that style.css gives the page now. @param {Element} root @returns {Palette} */
export function palette(root) {
  const style = getComputedStyle(root);
  const text = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  /** @returns {Colour} */
  const colour = (/** @type {string} */ name) => {
    const [r, g, b] = (text(name).match(/[\da-f]{2}/gi) ?? ["0", "0", "0"]).map((v) =>
      parseInt(v, 16),
    );
    return [r, g, b];
  };
  return {
    paper: colour("cell"),
    amount: colour("amount"),
    minus: colour("minus"),
    plus: colour("plus"),
    ink: colour("ink"),
    faint: colour("faint"),
    line: colour("line"),
    grid: colour("grid"),
    accent: colour("accent"),
  };
}

/** @param {Colour} from @param {Colour} to @param {number} t from 0 to 1
 * @param {number} power below 1 small values stay visible @returns {Colour} */
function between(from, to, t, power = 0.75) {
  const share = Math.min(1, Math.max(0, t)) ** power;
  const mix = (/** @type {number} */ i) => Math.round(from[i] + (to[i] - from[i]) * share);
  return [mix(0), mix(1), mix(2)];
}

/** How a pixel of an image is shown: ink on paper, or, of somebody's own pictures, as bright as it
 * is. @param {import("./data.js").Run} run @param {Palette} p
 * @returns {(t: number) => Colour} t from 0 to 1 */
export const shade = (run, p) =>
  run.asTaken
    ? (t) => between([0, 0, 0], [255, 255, 255], t, 1)
    : (t) => between(p.paper, p.ink, t, 1);

/** @param {Palette} p @param {number} value @param {number} most @param {boolean} signed
 * @returns {Colour} */
export function colourOf(p, value, most, signed) {
  const t = most > 0 ? Math.abs(value) / most : 0;
  return between(p.paper, signed ? (value < 0 ? p.minus : p.plus) : p.amount, t);
}

/** @param {Colour} colour @param {number} [alpha] */
export const css = (colour, alpha = 1) => `rgb(${colour.join(" ")} / ${alpha})`;

/** Numbers as a picture, one pixel each. @param {HTMLCanvasElement} canvas
 * @param {ArrayLike<number>} values @param {number} width @param {(v: number) => Colour} colour */
export function picture(canvas, values, width, colour) {
  const height = Math.ceil(values.length / width);
  canvas.width = width;
  canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  for (let i = 0; i < values.length; i++) {
    const [r, g, b] = colour(values[i]);
    image.data.set([r, g, b, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}
