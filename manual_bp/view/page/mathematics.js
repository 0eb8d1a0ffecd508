// The documents' algorithm for one example (m = 1), in double precision, as in backprop.py.
//
//   forward     z = W a_prev + b,  a = σ(z)                                  (n_out)
//   error       ∂C/∂a = 2 s (a − y) at the output, W_nextᵀ δ_next before it  (n_out)
//   slope       σ′(z) = a (1 − a), or 1 where a layer has no sigmoid         (n_out)
//   δ = ∂C/∂z = error ⊙ slope                                                (n_out)
//   gradients   ∂C/∂W = δ a_prevᵀ  (n_out, n_in),  ∂C/∂b = δ                 (n_out)

/** @typedef {{nIn: number, nOut: number, W: Float64Array, b: Float64Array | null, sigmoid: boolean}} Layer */
/** @typedef {{before: Float64Array, z: Float64Array, a: Float64Array, error: Float64Array,
 *   slope: Float64Array, delta: Float64Array}} LayerPass */
/** @typedef {{x: Float64Array, y: Float64Array, cost: number, layers: LayerPass[]}} Pass */

/** One pass forward and back for C = s Σ (a − y)².
 * @param {Layer[]} layers @param {Float64Array} x @param {Float64Array} y @param {number} s
 * @returns {Pass} */
export function pass(layers, x, y, s) {
  const passes = layers.map(() => /** @type {LayerPass} */ ({}));
  let before = x;
  layers.forEach(({ nIn, nOut, W, b, sigmoid }, l) => {
    const z = new Float64Array(nOut);
    for (let j = 0; j < nOut; j++) {
      let sum = b ? b[j] : 0;
      for (let i = 0; i < nIn; i++) sum += W[j * nIn + i] * before[i];
      z[j] = sum; // z = W a_prev + b  (n_out)
    }
    const a = sigmoid ? z.map((v) => 1 / (1 + Math.exp(-v))) : z.slice(); // a = σ(z)  (n_out)
    const slope = a.map((v) => (sigmoid ? v * (1 - v) : 1)); // σ′(z) = a (1 − a)  (n_out)
    passes[l] = { before, z, a, error: a, slope, delta: a };
    before = a;
  });
  const cost = s * before.reduce((sum, a, j) => sum + (a - y[j]) ** 2, 0); // C = s Σ (a − y)²
  let error = before.map((a, j) => 2 * s * (a - y[j])); // ∂C/∂a = 2 s (a − y)  (n_out)
  for (let l = layers.length - 1; l >= 0; l--) {
    const { nIn, nOut, W } = layers[l];
    const delta = error.map((e, j) => e * passes[l].slope[j]); // δ = ∂C/∂a ⊙ σ′(z)  (n_out)
    Object.assign(passes[l], { error, delta });
    if (l === 0) break; // no ∂C/∂x for the input
    error = new Float64Array(nIn);
    for (let j = 0; j < nOut; j++)
      for (let i = 0; i < nIn; i++) error[i] += W[j * nIn + i] * delta[j]; // ∂C/∂a_prev = Wᵀ δ
  }
  return { x, y, cost, layers: passes };
}

/** The layers after one step of gradient descent, in double precision.
 * @param {Layer[]} layers @param {Pass} done @param {number} lr @returns {Layer[]} */
export function update(layers, done, lr) {
  return layers.map((layer, l) => {
    const { before, delta } = done.layers[l];
    const W = layer.W.slice();
    const n = layer.nIn;
    delta.forEach((d, j) => before.forEach((a, i) => (W[j * n + i] -= lr * d * a))); // W − η δ aᵀ
    const b = layer.b && layer.b.map((v, j) => v - lr * delta[j]); // b − η δ
    return { ...layer, W, b };
  });
}

/** ‖v‖ @param {Float64Array} v */
export const norm = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));

/** ‖∂C/∂W‖ = ‖δ‖ ‖a_prev‖, as ∂C/∂W = δ a_prevᵀ for one example. @param {LayerPass} p */
export const gradientNorm = (p) => norm(p.delta) * norm(p.before);

/** ∂C/∂W = δ a_prevᵀ, row by row  (n_out, n_in). @param {LayerPass} p @returns {number[][]} */
export const dW = (p) => Array.from(p.delta, (d) => Array.from(p.before.map((a) => d * a)));
