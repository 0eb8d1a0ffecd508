// Build the page in an element: the parts, the switches, the keys, and a second run beside it.

import { curves } from "./curves.js";
import { Run } from "./data.js";
import { choice, el, part } from "./dom.js";
import { gallery } from "./gallery.js";
import { dW, pass } from "./mathematics.js";
import { network } from "./network.js";
import { number } from "./numbers.js";
import { outputs } from "./outputs.js";
import { pad } from "./pad.js";
import { pictures } from "./pictures.js";
import { SKELETON } from "./skeleton.js";
import { smallNetwork } from "./small.js";
import { staircase } from "./staircase.js";
import { steps } from "./steps.js";
import { Store } from "./store.js";
import { unitPanel } from "./unit.js";

/** @typedef {import("./data.js").Data} Data */
/** @typedef {import("./store.js").State} State */

const SMALL = 6; // units a layer, up to which every weight is drawn

/** The page for one run. @param {HTMLElement} root @param {Data} data @returns {Store} */
export function view(root, data) {
  const run = new Run(data);
  root.classList.add("look");
  root.innerHTML = SKELETON;
  const dark = globalThis.matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = root.dataset.theme
    ? /** @type {State["theme"]} */ (root.dataset.theme)
    : dark
      ? "dark"
      : "light";
  const store = new Store(run, root, theme);
  if (run.example) part(root, "first").replaceChildren("1 · The example");
  heading(root, run);
  switches(root, store);
  pad(root, store);
  outputs(root, store);
  gallery(root, store);
  (Math.max(...run.sizes) <= SMALL ? smallNetwork : network)(root, store);
  unitPanel(root, store);
  staircase(root, store);
  curves(root, store);
  pictures(root, store);
  keys(root, store, steps(root, store));
  return store;
}

/** @param {HTMLElement} root @param {Run} run */
function heading(root, run) {
  const { data } = run;
  const test = data.metrics?.findLast((row) => typeof row["accuracy/test"] === "number")?.[
    "accuracy/test"
  ];
  const facts = [
    run.sizes.join("-"),
    data.title,
    `η = ${number(data.lr)}`,
    data.batch ? `batches of ${data.batch}` : "",
    typeof test === "number" ? `test accuracy ${(100 * test).toFixed(2)} %` : "",
    data.finished === false ? "still training" : "",
    !run.example && data.cost !== run.cost
      ? `trained with the cost ${data.cost}; here C = ½ Σ (a − y)²`
      : "",
  ];
  part(root, "name").replaceChildren(
    el("strong", {}, data.name),
    ` ${facts.filter(Boolean).join(" · ")}`,
  );
  part(root, "trouble").replaceChildren(
    ...run.trouble.map(({ epoch, text }) =>
      el(
        "p",
        {},
        el("strong", {}, epoch === null ? "Trouble: " : `Trouble after epoch ${epoch}: `),
        text,
      ),
    ),
  );
}

/** @param {HTMLElement} root @param {Store} store */
function switches(root, store) {
  const documents = /** @type {[1 | 2 | 3, string][]} */ ([
    [1, "1"],
    [2, "2"],
    [3, "3"],
  ]);
  const show = choice(part(root, "notation"), documents, (notation) => store.set({ notation }));
  store.on(["notation"], () => show(store.state.notation));
  const exercise = part(root, "exercise");
  exercise.addEventListener("click", () => store.set({ exercise: !store.state.exercise }));
  store.on(["exercise"], () => {
    exercise.setAttribute("aria-pressed", `${store.state.exercise}`);
    root.classList.toggle("exercising", store.state.exercise);
  });
  const theme = part(root, "theme");
  theme.addEventListener("click", () => {
    const other = store.state.theme === "dark" ? "light" : "dark";
    store.set({ theme: other });
  });
  store.on(["theme"], () => {
    theme.textContent = store.state.theme === "dark" ? "Light" : "Dark";
  });
}

/** @param {HTMLElement} root @param {Store} store
 * @param {{go: (by: number) => void, play: () => void, all: () => void}} controls */
function keys(root, store, controls) {
  const { run } = store;
  const within = (/** @type {number} */ at, /** @type {number} */ n) =>
    Math.min(n - 1, Math.max(0, at));
  const unit = (/** @type {number} */ by) => {
    const { layer, unit: own } = store.state.pinned;
    store.set({ pinned: { layer, unit: within(own + by, run.sizes[layer]) }, hovered: null });
  };
  const layer = (/** @type {number} */ by) => {
    const { layer: own, unit: at } = store.state.pinned;
    const next = within(own - 1 + by, run.sizes.length - 1) + 1;
    store.set({ pinned: { layer: next, unit: within(at, run.sizes[next]) }, hovered: null });
  };
  const image = (/** @type {number} */ by) =>
    run.example || store.chooseImage(within((store.state.image ?? -by) + by, run.images));
  const epoch = (/** @type {number} */ by) =>
    store.chooseSnapshot(within(store.state.snapshot + by, run.epochs.length));
  /** @type {Record<string, () => void>} */
  const table = {
    ArrowRight: () => controls.go(1),
    ArrowLeft: () => controls.go(-1),
    " ": controls.play,
    Escape: controls.all,
    ArrowUp: () => unit(-1),
    ArrowDown: () => unit(1),
    PageUp: () => layer(-1),
    PageDown: () => layer(1),
    "[": () => epoch(-1),
    "]": () => epoch(1),
    n: () => image(1),
    p: () => image(-1),
  };
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    const at = /** @type {HTMLElement} */ (event.target);
    if (!root.isConnected) return document.removeEventListener("keydown", press);
    // Where nothing has the focus, the keys are the first run's.
    if (!root.contains(at) && (at !== document.body || root.classList.contains("second"))) return;
    if (event.ctrlKey || event.metaKey || event.altKey || at.closest("input, select, textarea"))
      return;
    if (event.key === " " && at.closest("button, label")) return; // space presses a button
    if (at.closest(".terms") && /^(Arrow|Page)/.test(event.key)) return; // they scroll
    if (!table[event.key]) return;
    event.preventDefault();
    table[event.key]();
  };
  document.addEventListener("keydown", press);
}

/** What `globalThis.look` offers: the numbers of any image at any epoch, as plain arrays.
 * @param {Run} run */
export function numbersOf(run) {
  return {
    epochs: run.epochs,
    images: run.images,
    /** @param {{epoch: number, image: number}} which */
    pass({ epoch, image }) {
      const k = run.epochs.indexOf(epoch);
      if (k < 0) throw new Error(`epoch ${epoch}: this page has ${run.epochs.join(", ")}`);
      if (!(image >= 0 && image < run.images))
        throw new Error(`image ${image}: this page has 0 to ${run.images - 1}`);
      const done = pass(run.layers(k), run.x(image), run.y(image), run.s);
      const layers = done.layers.map((p) => ({
        z: Array.from(p.z),
        a: Array.from(p.a),
        error: Array.from(p.error),
        slope: Array.from(p.slope),
        delta: Array.from(p.delta),
        dW: dW(p),
        db: Array.from(p.delta),
      }));
      return { x: Array.from(done.x), y: Array.from(done.y), cost: done.cost, layers };
    },
  };
}
