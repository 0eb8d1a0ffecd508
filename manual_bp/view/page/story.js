// The steps of one pass in order: x → z → a → … → C → error → slope → δ → ∂C/∂W → … → update.

/** @typedef {"x" | "z" | "a" | "C" | "error" | "slope" | "delta" | "dW" | "update"} Kind */
/** @typedef {{kind: Kind, layer: number}} Step layer from 1; 0 where the step has none */
/** @typedef {{forward: "z" | "a" | null, backward: "error" | "slope" | "delta" | null}} Shown */

/** @param {number} L how many layers @returns {Step[]} */
export function stepsOf(L) {
  /** @type {Step[]} */
  const steps = [{ kind: "x", layer: 0 }];
  for (let layer = 1; layer <= L; layer++) steps.push({ kind: "z", layer }, { kind: "a", layer });
  steps.push({ kind: "C", layer: 0 });
  for (let layer = L; layer >= 1; layer--)
    for (const kind of /** @type {Kind[]} */ (["error", "slope", "delta", "dW"]))
      steps.push({ kind, layer });
  steps.push({ kind: "update", layer: 0 });
  return steps;
}

/** What a layer's two strips show after a step; all where there is no step.
 * @param {Step[]} steps @param {number | null} step @param {number} layer @returns {Shown} */
export function shownAt(steps, step, layer) {
  /** @type {Shown} */
  const shown = { forward: null, backward: null };
  if (step === null) return { forward: "a", backward: "delta" };
  for (const { kind, layer: own } of steps.slice(0, step + 1)) {
    if (own !== layer) continue;
    if (kind === "z" || kind === "a") shown.forward = kind;
    else if (kind === "error" || kind === "slope" || kind === "delta") shown.backward = kind;
  }
  return shown;
}

/** Whether a step has been reached. @param {Step[]} steps @param {number | null} step
 * @param {Kind} kind @param {number} [layer] */
export const reached = (steps, step, kind, layer = 0) =>
  step === null || steps.findIndex((s) => s.kind === kind && s.layer === layer) <= step;

/** What a person reads at a step. @type {Record<Kind, string>} */
export const TOLD = {
  x: "The image goes in, one number a pixel.",
  z: "Each unit adds up what comes in, times its weights.",
  a: "The sigmoid squeezes the sum to a number between 0 and 1.",
  C: "How far is the output from the target? One number, the cost.",
  error: "Going back: how much does the cost change with this activation?",
  slope: "How steep is the sigmoid here? At most ¼.",
  delta: "Error times slope: the error signal δ.",
  dW: "δ times what came in: which way to turn each weight.",
  update: "Every weight moves a little against its gradient.",
};
