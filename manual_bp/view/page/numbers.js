// Numbers for people, as in trace/numbers.py: four digits, a real minus sign, long sums shortened.

const SHOWN = 4; // terms of a sum that are written out: all of them up to this many
const FEW = 3; // of them if there are more

/** Digits as Python's %.4g gives them: a tie goes to the even digit.
 * @param {number} value @param {number} digits */
function mantissaAndExponent(value, digits) {
  const [long, exponent] = Math.abs(value).toExponential(50).split("e");
  const tie = /^50*$/.test(long.slice(digits + 1)) && Number(long[digits]) % 2 === 0;
  const text = tie
    ? `${long.slice(0, digits + 1)}e${exponent}`
    : Math.abs(value).toExponential(digits - 1);
  return /** @type {[string, string]} */ (text.split("e"));
}

/** 0.7500 as 0.75, −0.046875 as −0.04688. @param {number} value
 * @param {number} [digits] @returns {string} */
export function number(value, digits = 4) {
  if (!Number.isFinite(value)) return `${value}`.replace("-", "−").replace("Infinity", "inf");
  if (value === 0) return "0";
  const [mantissa, power] = mantissaAndExponent(value, digits);
  const exponent = Number(power);
  const sign = value < 0 ? "−" : "";
  if (exponent < -4 || exponent >= digits)
    return `${sign}${Number(mantissa)}e${exponent < 0 ? `−${-exponent}` : `+${exponent}`}`;
  return `${sign}${Number(Number(`${mantissa}e${power}`).toFixed(digits - 1 - exponent))}`;
}

/** A number inside a product: in parentheses if it is negative. @param {number} value */
export function factor(value) {
  const text = number(value);
  return text.startsWith("−") ? `(${text})` : text;
}

/** left₁ · right₁ + …: the largest terms, and what the others add up to.
 * @param {Float64Array} left @param {Float64Array} right */
export function sumOfProducts(left, right) {
  const terms = left.map((v, i) => v * right[i]);
  let shown = Array.from(terms.keys());
  if (terms.length > SHOWN) shown = largest(terms, FEW).sort((i, j) => i - j);
  const parts = shown.map((i) => `${factor(left[i])} · ${factor(right[i])}`);
  const more = terms.length - shown.length;
  if (more) {
    const all = terms.reduce((sum, v) => sum + v, 0);
    const told = shown.reduce((sum, i) => sum + terms[i], 0);
    parts.push(`[${more} smaller terms: ${number(all - told)}]`);
  }
  return parts.join(" + ");
}

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

/** A number of the documents' networks as it is meant: 3 ln 3, 3/16, −2; else four digits.
 * @param {number} value */
export function exactly(value) {
  const whole = fraction(value, 1024);
  if (whole) return whole;
  const multiple = fraction(value / Math.log(3), 4096);
  if (!multiple) return number(value);
  const times = { 1: "", "−1": "−" }[multiple] ?? `${multiple} `;
  return `${times}ln 3`;
}

/** p/q with a small q, or "" where there is none. @param {number} value @param {number} limit */
function fraction(value, limit) {
  for (let q = 1; q <= limit; q++) {
    const p = Math.round(value * q);
    if (Math.abs(p / q - value) > 1e-12 * Math.max(1, Math.abs(value))) continue;
    return `${p}`.replace("-", "−") + (q > 1 ? `/${q}` : "");
  }
  return "";
}
