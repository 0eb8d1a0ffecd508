// Step through a pass: buttons, what happens at each step, and the update that may be repeated.

import { el, part } from "./dom.js";
import { largest, number } from "./numbers.js";
import { TOLD } from "./story.js";

const PACE = 800; // ms a step while it plays
const SMALL =
  "Each circle is a unit with its activation, below it its error signal δ. Click a unit to see its numbers.";
const LARGE =
  "Left strip of a layer: its activations a. Right strip: its error signal δ, blue below 0, red above. Click a unit to see its numbers.";

/** @param {HTMLElement} root @param {import("./store.js").Store} store
 * @returns {{go: (by: number) => void, play: () => void, all: () => void}} */
export function steps(root, store) {
  const { run } = store;
  const story = part(root, "story");
  const play = part(root, "play");
  const last = store.steps.length - 1;
  let timer = 0;

  /** @param {number} by */
  function go(by) {
    const { step, pinned } = store.state;
    const next = step === null ? (by > 0 ? 0 : last - 1) : step + by;
    if (next < 0) return all();
    if (next > last) return store.move(); // again
    const { kind, layer } = store.steps[next];
    const delta = layer ? store.pass.layers[layer - 1].delta : null;
    // The numbers follow the step into its layer: to the unit with the largest δ.
    const follow =
      delta && pinned.layer !== layer ? { pinned: { layer, unit: largest(delta, 1)[0] } } : {};
    if (kind === "update" && by > 0) store.move();
    store.set({ step: next, hovered: null, ...follow });
  }

  function all() {
    stop();
    store.set({ step: null, hovered: null });
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Step through";
    play.setAttribute("aria-pressed", "false");
  }

  function toggle() {
    if (timer) return stop();
    if (store.state.step === null || store.state.step === last) store.set({ step: null });
    go(1);
    timer = setInterval(() => (store.state.step === last ? stop() : go(1)), PACE);
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  }

  part(root, "on").addEventListener("click", () => (stop(), go(1)));
  part(root, "back").addEventListener("click", () => (stop(), go(-1)));
  part(root, "again").addEventListener("click", () => (stop(), store.move()));
  part(root, "reset").addEventListener("click", () => (stop(), store.reset()));
  play.addEventListener("click", toggle);

  store.on(["step", "pass", "notation", "exercise"], () => {
    const { step, costs, exercise } = store.state;
    const n = store.notation;
    part(root, "reset").toggleAttribute("disabled", !store.moved && step === null);
    const moved = learned(costs, run.data.lr, exercise);
    if (step === null) {
      story.replaceChildren(el("p", {}, run.example ? SMALL : LARGE), ...moved);
      return;
    }
    const { kind, layer } = store.steps[step];
    const own = store.state.layers[layer - 1];
    const formula = layer
      ? n.formulas(layer, own.b !== null, own.sigmoid, 2 * run.s)[kind]
      : kind === "C"
        ? `${n.costFormula(run.s)}${exercise ? "" : ` = ${number(store.pass.cost)}`}`
        : kind === "update"
          ? n.formulas(1, true, true).W
          : `${n.symbol("x", 0)}: ${run.sizes[0]} numbers`;
    const where = layer
      ? `layer ${layer} (${run.sizes[layer - 1]}→${run.sizes[layer]})`
      : kind === "C"
        ? "cost"
        : kind === "x"
          ? "input"
          : "update";
    story.replaceChildren(
      el("p", {}, el("strong", {}, `${step + 1}/${last + 1} · ${where}. `), TOLD[kind]),
      el("code", {}, formula),
      ...moved,
    );
  });
  return { go, play: toggle, all };
}

/** What the updates did. @param {number[]} costs @param {number} lr @param {boolean} exercise */
function learned(costs, lr, exercise) {
  if (costs.length < 2) return [];
  const few = costs.length > 6 ? [costs[0], ...costs.slice(-4)] : costs;
  const digits = number(costs[0]) === number(costs[costs.length - 1]) ? 8 : 4;
  const told = few
    .map((cost) => number(cost, digits))
    .join(" → ")
    .replace(" → ", costs.length > 6 ? " → … → " : " → ");
  const many = costs.length - 1;
  return [
    el(
      "p",
      { class: "learned" },
      `${many} update${many > 1 ? "s" : ""} on this image alone, η = ${number(lr)}: `,
      el("strong", {}, exercise ? "" : `C ${told}`),
    ),
  ];
}
