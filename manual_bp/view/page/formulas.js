// What happens in one unit, line by line, in the wording of `manual-bp trace`.

import { EXACT, ROUNDED, exactly, largest, meant } from "./numbers.js";

/** @typedef {import("./mathematics.js").Layer} Layer */
/** @typedef {import("./mathematics.js").Pass} Pass */
/** @typedef {import("./notation.js").Notation} Notation */
/** @typedef {{key: string, told: string, formula: string, left: string, value: number,
 *   shown: string}} Line `shown` is "= 3/4" or "≈ 0.04688" */
/** @typedef {import("./numbers.js").Pencil} Pencil */
/** @typedef {{what: string, weight: number, times: number, term: number}} Term */

const SHOWN = 4; // terms of a sum that are written out: all of them up to this many
const FEW = 3; // of them if there are more

/** The column of W that leaves a unit. @param {Layer} layer @param {number} unit */
export const column = ({ W, nIn, nOut }, unit) =>
  new Float64Array(nOut).map((_, k) => W[k * nIn + unit]);

/** The row of W that leads into a unit. @param {Layer} layer @param {number} unit */
export const row = (layer, unit) => layer.W.subarray(unit * layer.nIn, (unit + 1) * layer.nIn);

/** A number inside a product: in parentheses if it is negative. @param {string} text */
const factor = (text) => (text.startsWith("−") ? `(${text})` : text);

/** left₁ · right₁ + …, and its value: the largest terms, and what the others add up to.
 * @param {Pencil} pencil @param {Float64Array} left @param {Float64Array} right
 * @returns {[string, number]} */
function products({ lift, text }, left, right) {
  const [a, b] = [left.map(lift), right.map(lift)];
  const terms = a.map((v, i) => v * b[i]);
  let shown = Array.from(terms.keys());
  if (terms.length > SHOWN) shown = largest(terms, FEW).sort((i, j) => i - j);
  const parts = shown.map((i) => `${factor(text(a[i]))} · ${factor(text(b[i]))}`);
  let total = shown.reduce((sum, i) => sum + terms[i], 0);
  const more = terms.length - shown.length;
  if (more) {
    const rest = lift(terms.reduce((sum, v, i) => (shown.includes(i) ? sum : sum + v), 0));
    parts.push(`[${more} smaller terms: ${text(rest)}]`);
    total += rest;
  }
  return [parts.join(" + "), total];
}

/** Exact where every number given is a fraction or one of λ, and every σ one of a kλ.
 * @param {Layer[]} layers @param {Pass} pass @returns {Pencil} */
export function pencilOf(layers, { x, y, layers: passes }) {
  if (Math.max(x.length, ...layers.map(({ nOut }) => nOut)) > SHOWN) return ROUNDED;
  const given = [x, y, ...layers.flatMap(({ W, b }) => (b ? [W, b] : [W]))];
  const whole = (/** @type {number} */ z) => /^(0|−?\d*λ)$/.test(meant(z) ?? "");
  const lambdas = layers.every(({ sigmoid }, l) => !sigmoid || passes[l].z.every(whole));
  return lambdas && given.every((v) => v.every((w) => meant(w) !== null)) ? EXACT : ROUNDED;
}

/** z, a, error, slope, δ and ∂C/∂w of a unit. Each line goes on from the numbers as written.
 * @param {Notation} n @param {Layer[]} layers @param {Pass} pass @param {number} s
 * @param {number} l the layer, from 1 @param {number} u the unit, from 0
 * @param {Pencil} pencil @returns {Line[]} */
export function unitLines(n, layers, pass, s, l, u, pencil) {
  const { lift, text, result } = pencil;
  const [layer, p, after] = [layers[l - 1], pass.layers[l - 1], layers[l]];
  const formulas = n.formulas(l, layer.b !== null, layer.sigmoid, 2 * s);
  /** @type {Line[]} */
  const lines = [];
  /** @param {string} key @param {string} told @param {string} left @param {number} value
   * @param {number} [written] what the next line goes on from, where it is not `lift(value)` */
  function line(key, told, left, value, written = lift(value)) {
    const copied = !layer.sigmoid && (key === "a" || key === "slope"); // a = z, σ′ = 1
    let shown = written === lift(value) ? result(value) : `≈ ${text(written)}`;
    if (copied) shown = `= ${text(written)}`;
    lines.push({ key, told, formula: formulas[key], left, value: written, shown });
    return written;
  }
  let [filled, sum] = products(pencil, row(layer, u), p.before);
  if (layer.b) {
    filled += ` + ${factor(text(lift(layer.b[u])))}`;
    sum += lift(layer.b[u]);
  }
  const z = line("z", "weighted sum", `${n.symbol("z", l, u)} = ${filled}`, sum);
  const name = n.symbol("a", l, u);
  const exact = layer.sigmoid ? 1 / (1 + Math.exp(-z)) : z;
  // Near 1 with more digits, so that 1 − a has four.
  const near = layer.sigmoid && exact > 0.5 && pencil === ROUNDED;
  const small = 1 / (1 + Math.exp(z)); // 1 − a
  const a = line(
    "a",
    "activation",
    layer.sigmoid ? `${name} = σ(${text(z)})` : name,
    exact,
    near ? 1 - lift(small) : lift(exact),
  );
  const y = lift(pass.y[u]);
  const times = 2 * s === 1 ? "" : `${exactly(2 * s)} · `;
  [filled, sum] = after
    ? products(pencil, pass.layers[l].delta, column(after, u))
    : [`${times}(${text(a)} − ${factor(text(y))})`, 2 * s * (a - y)];
  const error = line("error", "error that arrives", `${n.derivative(name)} = ${filled}`, sum);
  const slope = line(
    "slope",
    "slope",
    n.slope(l, u) + (layer.sigmoid ? ` = ${text(a)} · (1 − ${text(a)})` : ""),
    layer.sigmoid ? a * (near ? lift(small) : 1 - a) : 1,
  );
  const delta = line(
    "delta",
    "error signal",
    `${n.symbol("δ", l, u)} = ${factor(text(error))} · ${factor(text(slope))}`,
    error * slope,
  );
  const i = largest(p.before, 1)[0]; // the weight with the largest gradient: δ is common to all
  const before = lift(p.before[i]);
  line(
    "dW",
    "gradient, its largest entry",
    `${n.derivative(n.weight(l, u, i))} = ${factor(text(delta))} · ${factor(text(before))}`,
    delta * before,
  );
  return lines;
}

/** The terms of a unit's weighted sum, or of its error, the largest first.
 * @param {Notation} n @param {Layer[]} layers @param {Pass} pass @param {number} l
 * @param {number} u @param {"z" | "error"} of @returns {Term[]} */
export function terms(n, layers, pass, l, u, of) {
  const after = layers[l];
  if (of === "error" && !after) return [];
  const weights = of === "z" ? row(layers[l - 1], u) : column(after, u);
  const others = of === "z" ? pass.layers[l - 1].before : pass.layers[l].delta;
  const name = (/** @type {number} */ i) =>
    of === "z"
      ? `${n.weight(l, u, i)} · ${n.symbol(l === 1 ? "x" : "a", l - 1, i)}`
      : `${n.symbol("δ", l + 1, i)} · ${n.weight(l + 1, i, u)}`;
  const products = weights.map((w, i) => w * others[i]);
  const found = largest(products, products.length).filter((i) => products[i] !== 0);
  const told = found.map((i) => ({
    what: name(i),
    weight: weights[i],
    times: others[i],
    term: products[i],
  }));
  const b = layers[l - 1].b;
  if (of === "z" && b) told.push({ what: n.symbol("b", l, u), weight: b[u], times: 1, term: b[u] });
  return told;
}
