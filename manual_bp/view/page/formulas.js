// What happens in one unit, line by line, in the wording of `manual-bp trace`.

import { factor, largest, number, sumOfProducts } from "./numbers.js";

/** @typedef {import("./mathematics.js").Layer} Layer */
/** @typedef {import("./mathematics.js").Pass} Pass */
/** @typedef {import("./notation.js").Notation} Notation */
/** @typedef {{key: string, told: string, formula: string, left: string, value: number}} Line */
/** @typedef {{what: string, weight: number, times: number, term: number}} Term */

/** The column of W that leaves a unit. @param {Layer} layer @param {number} unit */
export const column = ({ W, nIn, nOut }, unit) =>
  new Float64Array(nOut).map((_, k) => W[k * nIn + unit]);

/** The row of W that leads into a unit. @param {Layer} layer @param {number} unit */
export const row = (layer, unit) => layer.W.subarray(unit * layer.nIn, (unit + 1) * layer.nIn);

/** z, a, error, slope, δ, ∂C/∂w and ∂C/∂b of a unit; `left` ends before "= value".
 * @param {Notation} n @param {Layer[]} layers @param {Pass} pass @param {number} s
 * @param {number} l the layer, from 1 @param {number} u the unit, from 0 @returns {Line[]} */
export function unitLines(n, layers, pass, s, l, u) {
  const [layer, p, after] = [layers[l - 1], pass.layers[l - 1], layers[l]];
  const formulas = n.formulas(l, layer.b !== null, layer.sigmoid, 2 * s);
  const a = number(p.a[u]);
  const plus = layer.b ? ` + ${factor(layer.b[u])}` : "";
  const times = 2 * s === 1 ? "" : `${number(2 * s)} · `;
  const error = after
    ? sumOfProducts(pass.layers[l].delta, column(after, u))
    : `${times}(${a} − ${factor(pass.y[u])})`;
  const i = largest(p.before, 1)[0]; // the weight with the largest gradient: δ is common to all
  const gradient = n.derivative(n.weight(l, u, i));
  /** @type {[string, string, string, number][]} */
  const lines = [
    [
      "z",
      "weighted sum",
      `${n.symbol("z", l, u)} = ${sumOfProducts(row(layer, u), p.before)}${plus}`,
      p.z[u],
    ],
    [
      "a",
      "activation",
      n.symbol("a", l, u) + (layer.sigmoid ? ` = σ(${number(p.z[u])})` : ""),
      p.a[u],
    ],
    ["error", "error that arrives", `${n.derivative(n.symbol("a", l, u))} = ${error}`, p.error[u]],
    ["slope", "slope", n.slope(l, u) + (layer.sigmoid ? ` = ${a} · (1 − ${a})` : ""), p.slope[u]],
    [
      "delta",
      "error signal",
      `${n.symbol("δ", l, u)} = ${factor(p.error[u])} · ${factor(p.slope[u])}`,
      p.delta[u],
    ],
    [
      "dW",
      "gradient, its largest entry",
      `${gradient} = ${factor(p.delta[u])} · ${factor(p.before[i])}`,
      p.delta[u] * p.before[i],
    ],
  ];
  return lines.map(([key, told, left, value]) => ({
    key,
    told,
    formula: formulas[key],
    left,
    value,
  }));
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
