// The three documents' symbols for the same quantities: the browser's half of notation.py.
//
// Layers are counted 1, 2, … from the first that has weights; 0 is the input. Units from 0.

const UP = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const DOWN = "₀₁₂₃₄₅₆₇₈₉";
/** @param {number} n */
const superscript = (n) => `${n}`.replace(/\d/g, (d) => UP[Number(d)]);
/** @param {number} n */
const subscript = (n) => `${n}`.replace(/\d/g, (d) => DOWN[Number(d)]);

/** ₂₁ for row 2, column 1; [12, 345] where two digits would run together.
 * @param {number} to @param {number} from */
const index = (to, from) =>
  Math.max(to, from) < 9 ? subscript(10 * (to + 1) + from + 1) : `[${to + 1}, ${from + 1}]`;

/** Documents 1 and 3; document 2 differs in more and has a class of its own. */
export class Notation {
  /** @param {1 | 2 | 3} document @param {number[]} sizes @param {string[][] | null} [units] */
  constructor(document, sizes, units = null) {
    this.document = document;
    this.sizes = sizes;
    this.units = units;
    this.last = sizes.length - 1;
    this.cost = { 1: "J", 2: "E", 3: "C" }[document];
    this.weights = { 1: "Θ", 2: "w", 3: "W" }[document];
  }

  /** The superscript that names a layer. @param {string} letter @param {number} layer */
  mark(letter, layer) {
    if (this.document === 3) return superscript(layer);
    return `⁽${superscript("Θb".includes(letter) ? layer : layer + 1)}⁾`;
  }

  /** A vector of the layer ("x", "z", "a", "δ", "b", "y"), or its entry for one unit.
   * @param {string} letter @param {number} layer @param {number} [unit] @returns {string} */
  symbol(letter, layer, unit) {
    const which = unit === undefined || this.sizes[layer] === 1 ? "" : subscript(unit + 1);
    return `${letter}${which}${"xy".includes(letter) ? "" : this.mark(letter, layer)}`;
  }

  /** The weight matrix into the layer, or its entry. @param {number} layer @param {number} [to]
   * @param {number} [from] @returns {string} */
  weight(layer, to, from) {
    if (to === undefined || from === undefined)
      return `${this.weights}${this.mark(this.weights, layer)}`;
    if (this.document === 1 && Math.max(...this.sizes) === 1) return `θ${subscript(layer)}`;
    const letter = this.weights.toLowerCase();
    return `${letter}${index(to, from)}${this.mark(this.weights, layer)}`;
  }

  /** What enters the layer. @param {number} layer @returns {string} */
  before(layer) {
    return this.symbol("a", layer - 1);
  }

  /** The derivative of the activation function. @param {number} layer @param {number} [unit] */
  slope(layer, unit) {
    return `${this.document === 1 ? "f" : "σ"}′(${this.symbol("z", layer, unit)})`;
  }

  /** ∂C/∂… of a symbol. @param {string} of */
  derivative(of) {
    return `∂${this.cost}/∂${of}`;
  }

  /** The formulas of one layer. @param {number} layer @param {boolean} bias
   * @param {boolean} sigmoid @param {number} twoS 2 s, the factor of a − y in the output's error
   * @returns {Record<string, string>} */
  formulas(layer, bias, sigmoid, twoS = 1) {
    const [z, a, b, delta] = ["z", "a", "b", "δ"].map((letter) => this.symbol(letter, layer));
    const W = this.weight(layer);
    const before = this.before(layer);
    const error = this.derivative(a);
    const f = this.document === 1 ? "f" : "σ";
    const columns = this.document === 3;
    const slope = this.slope(layer);
    const dW = columns ? `∇${W}` : this.derivative(W);
    const back = columns
      ? `(${this.weight(layer + 1)})ᵀ ${this.symbol("δ", layer + 1)}`
      : `${this.symbol("δ", layer + 1)} ${this.weight(layer + 1)}`;
    return {
      z: `${z} = ${columns ? `${W} ${before}` : `${before} (${W})ᵀ`}${bias ? ` + ${b}` : ""}`,
      a: sigmoid ? `${a} = ${f}(${z}) = 1/(1 + e^(−${z}))` : `${a} = ${z}`,
      error: `${error} = ${layer === this.last ? this.residual(twoS) : back}`,
      slope: sigmoid ? `${slope} = ${a} ⊙ (1 − ${a})` : `${slope} = 1`,
      delta: `${delta} = ${error} ⊙ ${slope}`,
      dW: columns ? `${dW} = ${delta} (${before})ᵀ` : `${dW} = (${delta})ᵀ ${before}`,
      W: `${W} := ${W} − η ${dW}`,
    };
  }

  /** 2 s (a − y) @param {number} twoS */
  residual(twoS) {
    const difference = `(${this.symbol("a", this.last)} − ${this.symbol("y", this.last)})`;
    return twoS === 1
      ? difference
      : `${twoS === 2 ? "2" : `1/${Math.round(1 / twoS)}`} ${difference}`;
  }

  /** C = s Σ (a − y)² @param {number} s */
  costFormula(s) {
    const times = s === 0.5 ? "½ " : s === 1 ? "" : `1/${Math.round(1 / s)} `;
    return `${this.cost} = ${times}Σ ${this.residual(1)}²`;
  }
}

/** s enters unit j, z leaves it, w_{i→j} joins two units, E is the error; unit by unit. */
export class Document2 extends Notation {
  /** @param {number} layer @param {number} unit */
  name(layer, unit) {
    if (this.units) return this.units[layer][unit];
    const letter = layer === this.last ? "o" : ("ijklmnpqrstuv"[layer] ?? `h${layer}`);
    return this.sizes[layer] === 1 ? letter : `${letter}${subscript(unit + 1)}`;
  }

  /** @override @param {string} letter @param {number} layer @param {number} [unit] */
  symbol(letter, layer, unit) {
    let own = letter === "z" ? "s" : letter === "a" ? (layer === 0 ? "x" : "z") : letter;
    if (layer === this.last && (own === "z" || own === "y")) {
      own = own === "z" ? "ŷ" : "y";
      if (unit === undefined || this.sizes[layer] === 1) return own;
    }
    return `${own}_${unit !== undefined ? this.name(layer, unit) : layer ? "j" : "i"}`;
  }

  /** @override @param {number} layer @param {number} [to] @param {number} [from] */
  weight(layer, to, from) {
    if (to === undefined || from === undefined) return "w_{i→j}";
    return `w_{${this.name(layer - 1, from)}→${this.name(layer, to)}}`;
  }

  /** @override @param {number} layer */
  before(layer) {
    return layer === 1 ? "x_i" : "z_i";
  }

  /** @override @param {number} layer @param {number} [unit] */
  slope(layer, unit) {
    const name = unit === undefined ? "j" : this.name(layer, unit);
    return `f_${name}′(s_${name})`;
  }

  /** @override @param {number} layer @param {boolean} bias @param {boolean} sigmoid
   * @param {number} twoS @returns {Record<string, string>} */
  formulas(layer, bias, sigmoid, twoS = 1) {
    const a = this.symbol("a", layer);
    const before = this.before(layer);
    const error = this.derivative(a);
    const slope = this.slope(layer);
    return {
      z: `s_j = Σ_{i ∈ ins(j)} w_{i→j} ${before}${bias ? " + b_j" : ""}`,
      a: sigmoid ? `${a} = σ(s_j) = 1/(1 + e^(−s_j))` : `${a} = s_j`,
      error: `${error} = ${layer === this.last ? this.residual(twoS) : "Σ_{k ∈ outs(j)} δ_k w_{j→k}"}`,
      slope: sigmoid ? `${slope} = σ(s_j) (1 − σ(s_j))` : `${slope} = 1`,
      delta: `δ_j = ${slope} · ${error}`,
      dW: `∂E/∂w_{i→j} = δ_j ${before}`,
      W: `w_{i→j} := w_{i→j} + Δw_{i→j},  Δw_{i→j} = −η δ_j ${before}`,
    };
  }
}

/** @param {1 | 2 | 3} document @param {number[]} sizes @param {string[][] | null} [units] */
export function notation(document, sizes, units = null) {
  return document === 2 ? new Document2(2, sizes, units) : new Notation(document, sizes, units);
}
