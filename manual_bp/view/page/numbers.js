// Numbers as a pencil writes them, as in pencil.py: exact where λ = ln 3 and fractions are all there
// is, else rounded to four digits where a number is written. The next line goes on from that number.

const LAMBDA = Math.log(3);
const LONGEST = 6; // characters of an exact number after which its decimals stand too

/** To some digits, halves up. Twelve digits tell a half from its binary neighbours.
 * @param {number} value @param {number} [digits] @returns {number} */
export function rounded(value, digits = 4) {
  if (!Number.isFinite(value) || value === 0) return value;
  const [mantissa, power] = Math.abs(value).toExponential(11).split("e");
  const whole = Math.floor(Number(mantissa) * 10 ** (digits - 1) + 0.5 + 1e-8);
  return Math.sign(value) * Number(`${whole}e${Number(power) - digits + 1}`);
}

/** A number that is rounded already: 0.75, −0.04688, 7.677e−5. @param {number} value */
function text(value) {
  if (!Number.isFinite(value)) return `${value}`.replace("-", "−").replace("Infinity", "inf");
  if (value === 0) return "0";
  const size = Math.abs(value);
  const [mantissa, power] = size.toExponential(14).split("e");
  const exponent = Number(power);
  const plain = exponent >= -4 && exponent < 6;
  const told = plain
    ? `${Number(size.toPrecision(15))}`
    : `${Number(mantissa)}e${exponent < 0 ? `−${-exponent}` : exponent}`;
  return value < 0 ? `−${told}` : told;
}

/** 0.7500 as 0.75, −0.046875 as −0.04688. @param {number} value @param {number} [digits] */
export const number = (value, digits = 4) => text(rounded(value, digits));

/** p/q with q of at most `limit`, by continued fractions; null where there is none.
 * @param {number} value @param {number} limit @returns {[number, number] | null} */
function fraction(value, limit) {
  let [p0, q0, p1, q1, rest] = [0, 1, 1, 0, Math.abs(value)];
  while (Number.isFinite(rest)) {
    const whole = Math.floor(rest);
    [p0, q0, p1, q1] = [p1, q1, whole * p1 + p0, whole * q1 + q0];
    if (q1 > limit) return null;
    if (Math.abs(p1 / q1 - Math.abs(value)) <= 4e-15 * Math.abs(value)) return [p1, q1];
    rest = 1 / (rest - whole);
  }
  return null;
}

/** 3λ, −λ/2, 3/16, −2; null where a number is neither a fraction nor one of λ.
 * @param {number} value @returns {string | null} */
export function meant(value) {
  if (value === 0) return "0";
  for (const [unit, letter] of /** @type {[number, string][]} */ ([
    [1, ""],
    [LAMBDA, "λ"],
  ])) {
    const found = fraction(value / unit, 200_000);
    if (!found) continue;
    const [p, q] = found;
    return `${value < 0 ? "−" : ""}${p === 1 && letter ? "" : p}${letter}${q > 1 ? `/${q}` : ""}`;
  }
  return null;
}

/** A number of the documents' networks as it is meant, else four digits. @param {number} value */
export const exactly = (value) => meant(value) ?? number(value);

/** How a sheet writes: a number, and the sign and result of a line with what the next goes on from.
 * @typedef {{lift: (v: number) => number, text: (v: number) => string,
 *   result: (v: number) => string}} Pencil */

/** Exact, for the documents' networks. @type {Pencil} */
export const EXACT = {
  lift: (v) => v,
  text: exactly,
  result(v) {
    const exact = meant(v);
    if (exact === null) return `≈ ${number(v)}`;
    return `= ${exact}${exact.length > LONGEST ? ` ${sign(v)} ${number(v)}` : ""}`;
  },
};

/** Rounded to four digits where a number is written. @type {Pencil} */
export const ROUNDED = { lift: (v) => rounded(v), text, result: (v) => `${sign(v)} ${number(v)}` };

/** Whether four digits are all of a number. @param {number} v */
const sign = (v) => (Math.abs(rounded(v) - v) <= 1e-13 * Math.abs(v) ? "=" : "≈");

/** The indices of the k entries that are largest in size, the largest first; the first of equals.
 * @param {Float64Array} values @param {number} k @returns {number[]} */
export function largest(values, k) {
  const size = values.map(Math.abs);
  if (k > 20)
    return Array.from(size.keys())
      .sort((i, j) => size[j] - size[i])
      .slice(0, k);
  /** @type {number[]} */
  const found = [];
  for (let i = 0; i < size.length; i++) {
    if (found.length === k && size[i] <= size[found[k - 1]]) continue;
    let at = found.length;
    while (at > 0 && size[found[at - 1]] < size[i]) at--;
    found.splice(at, 0, i);
    if (found.length > k) found.pop();
  }
  return found;
}

/** The largest size of an entry. @param {Float64Array} values */
export const highest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

/** Where the largest entry stands. @param {Float64Array} values */
export const argmax = (values) => values.reduce((at, v, i) => (v > values[at] ? i : at), 0);
