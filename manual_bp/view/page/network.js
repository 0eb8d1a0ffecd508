// The network, layer by layer: a strip for what goes forward (z, a), one for what comes back
// (error, σ′, δ), a cell a unit. The strongest weights of the chosen unit are lines.

import { colourOf, css, picture, shade } from "./colours.js";
import { el, part, sharp } from "./dom.js";
import { column, row } from "./formulas.js";
import { HEIGHT, SIDE, layOut, middle } from "./layout.js";
import { highest, largest, number } from "./numbers.js";
import { shownAt } from "./story.js";

/** @typedef {import("./colours.js").Colour} Colour */
/** @typedef {import("./store.js").Store} Store */
/** @typedef {import("./layout.js").Strip} Strip */
/** @typedef {import("./layout.js").Column} Column */

const LINES = 12; // weights drawn for a unit, each way
const NAMES = { z: "z", a: "a", error: "error", slope: "σ′", delta: "δ" };

/** @param {HTMLElement} root @param {Store} store */
export function network(root, store) {
  const { run } = store;
  const box = part(root, "net");
  const tip = part(root, "tip");
  const canvas = el("canvas", { role: "img" });
  const small = el("canvas"); // one pixel a unit, before it is scaled
  const heads = run.sizes.map((_, l) => headOf(store, l));
  const feet = run.sizes.map(() => el("div", { class: "foot" }));
  const inner = el("div", { class: "inner" }, ...heads, canvas, ...feet);
  box.append(inner);
  /** @type {Column[]} */
  let columns = [];

  function draw() {
    const { colours } = store;
    const width = Math.max(box.clientWidth - 2, 66 * run.sizes.length);
    columns = layOut(store, width);
    const last = columns[columns.length - 1];
    const whole = Math.max(width, last.x + last.width + SIDE);
    inner.style.width = `${whole}px`;
    const context = sharp(canvas, whole, HEIGHT);
    const { x, layers, step, pinned } = store.state;
    const unit = store.unit;
    const image = run.shape !== null;
    lines(context, unit.layer, unit.unit);
    const most = highest(x);
    const pixel = shade(run, colours);
    strip(context, columns[0].strips[0], x, image, (v) =>
      image ? pixel(v) : colourOf(colours, v, most, true),
    );
    feet[0].replaceChildren(image ? "" : number(most, 2));
    store.pass.layers.forEach((p, k) => {
      const shown = shownAt(store.steps, step, k + 1);
      const [forward, backward] = columns[k + 1].strips;
      const sigmoid = layers[k].sigmoid;
      const up = shown.forward && p[shown.forward];
      const down = shown.backward && p[shown.backward];
      const bounded = shown.forward === "a" && sigmoid; // between 0 and 1
      const mostUp = up ? (bounded ? 1 : highest(up)) : 0;
      const mostDown = down ? highest(down) : 0;
      strip(context, forward, up, false, (v) => colourOf(colours, v, mostUp, !bounded));
      strip(context, backward, down, false, (v) =>
        colourOf(colours, v, mostDown, shown.backward !== "slope"),
      );
      const told = (/** @type {keyof typeof NAMES | null} */ name, /** @type {number} */ value) =>
        el("span", {}, name ? `${NAMES[name]} ≤ ${number(value, 2)}` : " ");
      feet[k + 1].replaceChildren(
        told(shown.forward, up ? highest(up) : 0),
        told(shown.backward, mostDown),
      );
      const [first, second] = heads[k + 1].querySelectorAll("b");
      first.textContent = shown.forward ? NAMES[shown.forward] : "·";
      second.textContent = shown.backward ? NAMES[shown.backward] : "·";
    });
    columns.forEach(({ x: left, width: own }, l) => {
      for (const label of [heads[l], feet[l]]) label.style.left = `${left + own / 2}px`;
      const current = step !== null && store.steps[step].layer === l && l > 0;
      heads[l].classList.toggle("current", current || (step === 0 && l === 0));
    });
    mark(context, pinned.layer, pinned.unit, colours.ink, 2);
    if (store.state.hovered) mark(context, unit.layer, unit.unit, colours.accent, 2);
    canvas.setAttribute("aria-label", `The network ${run.sizes.join("-")}: a cell a unit.`);
  }

  /** @param {CanvasRenderingContext2D} context @param {Strip} s @param {Float64Array | null} values
   * @param {boolean} image @param {(v: number) => Colour} colour */
  function strip(context, s, values, image, colour) {
    const { colours } = store;
    const [width, height] = [s.columns * s.w, s.rows * s.h];
    const cells = new Float64Array(s.rows * s.columns).fill(NaN);
    values?.forEach(
      (v, i) => (cells[image ? i : (i % s.rows) * s.columns + Math.floor(i / s.rows)] = v),
    );
    picture(small, cells, s.columns, (v) => (Number.isNaN(v) ? colours.paper : colour(v)));
    context.imageSmoothingEnabled = false;
    context.drawImage(small, s.x, s.y, width, height);
    context.strokeStyle = css(image ? colours.line : colours.grid);
    context.lineWidth = 1;
    context.beginPath();
    for (let r = 1; r < s.rows && !image; r++) {
      context.moveTo(s.x, s.y + r * s.h);
      context.lineTo(s.x + width, s.y + r * s.h);
    }
    for (let c = 1; c < s.columns && !image; c++) {
      context.moveTo(s.x + c * s.w, s.y);
      context.lineTo(s.x + c * s.w, s.y + height);
    }
    context.globalAlpha = s.h < 6 ? 0.4 : 1;
    context.stroke();
    context.globalAlpha = 1;
    context.strokeStyle = css(colours.line);
    context.strokeRect(s.x - 0.5, s.y - 0.5, width + 1, height + 1);
  }

  /** The strongest weights into the unit and out of it.
   * @param {CanvasRenderingContext2D} context @param {number} l @param {number} u */
  function lines(context, l, u) {
    const { layers } = store.state;
    const into = row(layers[l - 1], u);
    const to = columns[l].strips[0];
    const most = highest(into);
    const [x1, y1] = middle(to, u, false);
    for (const i of largest(into, LINES)) {
      const from = columns[l - 1].strips[0];
      const [x0, y0] = middle(from, i, l === 1 && run.shape !== null);
      line(context, x0, y0, x1, y1, into[i], most);
    }
    const after = layers[l];
    if (!after) return;
    const out = column(after, u);
    const strongest = highest(out);
    for (const k of largest(out, LINES)) {
      const [x2, y2] = middle(columns[l + 1].strips[0], k, false);
      line(context, x1, y1, x2, y2, out[k], strongest);
    }
  }

  /** @param {CanvasRenderingContext2D} context @param {number} x0 @param {number} y0
   * @param {number} x1 @param {number} y1 @param {number} weight @param {number} most */
  function line(context, x0, y0, x1, y1, weight, most) {
    const { colours } = store;
    const share = most ? Math.abs(weight) / most : 0;
    context.strokeStyle = css(weight < 0 ? colours.minus : colours.plus, 0.25 + 0.6 * share);
    context.lineWidth = 0.6 + 1.8 * share;
    const bend = (x1 - x0) / 2;
    context.beginPath();
    context.moveTo(x0, y0);
    context.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
    context.stroke();
  }

  /** @param {CanvasRenderingContext2D} context @param {number} l @param {number} u
   * @param {Colour} colour @param {number} width */
  function mark(context, l, u, colour, width) {
    context.strokeStyle = css(colour);
    context.lineWidth = width;
    for (const s of columns[l].strips) {
      const [x, y] = middle(s, u, false);
      const [w, h] = [Math.max(s.w, 6), Math.max(s.h, 6)];
      context.strokeRect(x - w / 2 - 1, y - h / 2 - 1, w + 1, h + 1);
    }
  }

  /** The unit under the pointer. @param {PointerEvent | MouseEvent} event */
  function under(event) {
    const { left, top } = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    for (let l = 1; l < columns.length; l++)
      for (const s of columns[l].strips) {
        const [c, r] = [Math.floor((x - s.x) / s.w), Math.floor((y - s.y) / s.h)];
        if (c < 0 || r < 0 || c >= s.columns || r >= s.rows) continue;
        const unit = c * s.rows + r;
        if (unit < columns[l].n) return { layer: l, unit };
      }
    return null;
  }

  canvas.addEventListener("pointermove", (event) => {
    const hovered = under(event);
    canvas.style.cursor = hovered ? "pointer" : "";
    const before = store.state.hovered;
    if (hovered?.layer !== before?.layer || hovered?.unit !== before?.unit) store.set({ hovered });
    showTip(hovered, event);
  });
  canvas.addEventListener("pointerleave", () => {
    store.set({ hovered: null });
    tip.hidden = true;
  });
  canvas.addEventListener("click", (event) => {
    const pinned = under(event);
    if (pinned) store.set({ pinned });
  });

  /** @param {import("./store.js").Unit | null} unit @param {MouseEvent} event */
  function showTip(unit, event) {
    tip.hidden = unit === null || store.state.exercise;
    if (!unit || tip.hidden) return;
    const p = store.pass.layers[unit.layer - 1];
    const told = /** @type {[string, Float64Array][]} */ ([
      ["z", p.z],
      ["a", p.a],
      ["error", p.error],
      ["σ′", p.slope],
      ["δ", p.delta],
    ]);
    tip.replaceChildren(
      el("strong", {}, `layer ${unit.layer}, unit ${unit.unit + 1}`),
      ...told.map(([name, values]) => el("span", {}, `${name} = ${number(values[unit.unit])}`)),
    );
    const bounds = root.getBoundingClientRect();
    const x = Math.min(event.clientX - bounds.left + 14, bounds.width - 150);
    tip.style.left = `${x}px`;
    tip.style.top = `${event.clientY - bounds.top + 16}px`;
  }

  store.on(["pass", "step", "pinned", "hovered", "theme"], draw);
  new ResizeObserver(draw).observe(box);
}

/** @param {Store} store @param {number} l */
function headOf({ run }, l) {
  if (l === 0)
    return el(
      "div",
      { class: "head" },
      el("span", {}, "input"),
      el("small", {}, `${run.sizes[0]}`),
    );
  return el(
    "div",
    { class: "head" },
    el("span", {}, `layer ${l}`),
    el("small", {}, `${run.sizes[l - 1]}→${run.sizes[l]}`),
    el("span", { class: "two" }, el("b", {}, "a"), el("b", {}, "δ")),
  );
}
