// What a person has chosen, and the pass that follows from it. Parts of the page listen.

import { palette } from "./colours.js";
import { pass, update } from "./mathematics.js";
import { notation } from "./notation.js";
import { argmax } from "./numbers.js";
import { stepsOf } from "./story.js";

/** @typedef {import("./mathematics.js").Layer} Layer */
/** @typedef {import("./data.js").Run} Run */
/** @typedef {{layer: number, unit: number}} Unit layer from 1, unit from 0 */
/** @typedef {{snapshot: number, image: number | null, x: Float64Array, y: Float64Array,
 *   layers: Layer[], costs: number[], pinned: Unit, hovered: Unit | null, step: number | null,
 *   notation: 1 | 2 | 3, exercise: boolean, theme: "light" | "dark"}} State */
/** @typedef {keyof State | "pass"} Key */

export class Store {
  /** @param {Run} run @param {HTMLElement} root whose style sheet has the colours
   * @param {"light" | "dark"} theme */
  constructor(run, root, theme) {
    this.run = run;
    this.root = root;
    root.dataset.theme = theme;
    this.colours = palette(root);
    this.steps = stepsOf(run.sizes.length - 1);
    /** @type {((changed: Set<Key>) => void)[]} */
    this.listeners = [];
    const snapshot = run.epochs.length - 1;
    const first = firstImage(run);
    const [x, y] = [run.x(first), run.y(first)];
    const unit = { layer: run.sizes.length - 1, unit: argmax(y) };
    /** @type {State} */
    this.state = {
      snapshot,
      image: first,
      x,
      y,
      layers: run.layers(snapshot),
      costs: [],
      pinned: unit,
      hovered: null,
      step: null,
      notation: run.data.notation ?? 1,
      exercise: false,
      theme,
    };
    this.pass = pass(this.state.layers, x, y, run.s);
    this.notation = notation(this.state.notation, run.sizes, run.data.units);
  }

  /** Change what is chosen; whoever listens draws again. @param {Partial<State>} patch */
  set(patch) {
    /** @type {Set<Key>} */
    const changed = new Set();
    for (const key of /** @type {(keyof State)[]} */ (Object.keys(patch)))
      if (this.state[key] !== patch[key]) changed.add(key);
    if (changed.size === 0) return;
    const last = this.run.sizes.length - 1;
    const { pinned, y: old } = this.state;
    const followed = pinned.layer === last && pinned.unit === argmax(old);
    Object.assign(this.state, patch);
    if (changed.has("y") && followed && !changed.has("pinned")) {
      // The target's output unit was chosen: the new target's is now.
      this.state.pinned = { layer: last, unit: argmax(this.state.y) };
      changed.add("pinned");
    }
    const { layers, x, y } = this.state;
    if (changed.has("layers") || changed.has("x") || changed.has("y")) {
      this.pass = pass(layers, x, y, this.run.s);
      changed.add("pass");
    }
    if (changed.has("notation"))
      this.notation = notation(this.state.notation, this.run.sizes, this.run.data.units);
    if (changed.has("theme")) {
      this.root.dataset.theme = this.state.theme;
      this.colours = palette(this.root);
    }
    for (const listener of this.listeners) listener(changed);
  }

  /** @param {Key[]} keys @param {() => void} draw called now, and when one of the keys changes */
  on(keys, draw) {
    this.listeners.push((changed) => keys.some((key) => changed.has(key)) && draw());
    draw();
  }

  /** The unit whose numbers are shown. @returns {Unit} */
  get unit() {
    return this.state.hovered ?? this.state.pinned;
  }

  /** @param {number} image */
  chooseImage(image) {
    this.set({ image, x: this.run.x(image), y: this.run.y(image), hovered: null, costs: [] });
  }

  /** @param {number} snapshot */
  chooseSnapshot(snapshot) {
    this.set({ snapshot, layers: this.run.layers(snapshot), costs: [] });
  }

  /** One step of gradient descent on this image alone: W := W − η ∂C/∂W. */
  move() {
    const { layers, costs } = this.state;
    const before = this.pass.cost;
    const moved = update(layers, this.pass, this.run.data.lr);
    const after = pass(moved, this.state.x, this.state.y, this.run.s).cost;
    this.set({ layers: moved, costs: costs.length ? [...costs, after] : [before, after] });
  }

  /** Back to the weights of the snapshot. */
  reset() {
    this.set({ layers: this.run.layers(this.state.snapshot), costs: [], step: null });
  }

  /** Whether the weights were moved by hand. */
  get moved() {
    return this.state.layers !== this.run.layers(this.state.snapshot);
  }
}

/** A first image that is easy to read: one that the last snapshot gets right, if there is one.
 * @param {Run} run */
function firstImage(run) {
  const layers = run.layers(run.epochs.length - 1);
  for (let i = 0; i < run.images && !run.example; i++) {
    const { layers: passes } = pass(layers, run.x(i), run.y(i), run.s);
    if (argmax(passes[passes.length - 1].a) === run.labels[i]) return i;
  }
  return 0;
}
