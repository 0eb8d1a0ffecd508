// The tab of TensorBoard: a choice of run, and the page of that run, read anew while it trains.

import { listen } from "./beside.js";
import { el } from "./dom.js";
import { numbersOf, view } from "./main.js";

/** @typedef {import("./store.js").Store} Store */
/** @typedef {import("./data.js").Data} Data */

const EVERY = 4000; // ms between two looks at a run that still trains

/** @param {string} styles the style sheet's text */
export async function tab(styles) {
  document.head.append(
    el("style", {}, styles),
    el("meta", { name: "viewport", content: "width=device-width" }),
  );
  const chosen = el("select", { "aria-label": "Run" });
  const line = el("p", { role: "status" });
  const page = el("div", { class: "page" });
  const bar = el("div", { class: "look bar" }, el("label", {}, "Run ", chosen), line);
  document.body.replaceChildren(bar, page);
  /** @type {Store | null} */
  let store = null;
  let shown = "";

  /** When the page of each run was written. @type {Map<string, number>} */
  let written = new Map();
  /** @type {number | undefined} */
  let shownOf;

  async function runs() {
    /** @type {{name: string, modified: number}[]} */
    const found = await read("./runs");
    written = new Map(found.map(({ name, modified }) => [name, modified]));
    const names = [...written.keys()];
    const own = chosen.value;
    chosen.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    if (names.includes(own)) chosen.value = own;
    line.textContent = names.length ? "" : "No run here has snapshots of its weights yet.";
    bar.dataset.theme = store?.state.theme ?? "light";
  }

  /** Show the chosen run; keep what a person has chosen while the same run goes on. */
  async function show() {
    const name = chosen.value;
    if (!name) return;
    shownOf = written.get(name);
    /** @type {Data} */
    const data = await read(`./run?${new URLSearchParams({ name })}`);
    const same = shown === name && store;
    if (
      same &&
      store &&
      data.epochs.length === store.run.epochs.length &&
      data.finished === store.run.data.finished
    )
      return;
    const kept = same && store ? store.state : null;
    const atEnd = !store || store.state.snapshot === store.run.epochs.length - 1;
    const root = el("div", kept ? { "data-theme": kept.theme } : {});
    page.className = "page";
    page.replaceChildren(root);
    store = view(root, data);
    listen(page, root, () => /** @type {Store} */ (store));
    Object.assign(globalThis, { look: numbersOf(store.run) });
    shown = name;
    if (!kept) return;
    const { x, y, image, pinned, notation, exercise } = kept;
    store.set({ x, y, image, pinned, notation, exercise });
    if (!atEnd) store.chooseSnapshot(Math.min(kept.snapshot, store.run.epochs.length - 1));
  }

  /** @param {() => Promise<void>} work */
  async function safely(work) {
    try {
      await work();
    } catch (error) {
      line.textContent = error instanceof Error ? error.message : `${error}`;
    }
  }

  chosen.addEventListener("change", () => safely(show));
  await safely(runs);
  await safely(show);
  setInterval(() => {
    if (document.hidden) return;
    safely(async () => {
      await runs();
      if (shown !== chosen.value || shownOf !== written.get(shown)) await show();
    });
  }, EVERY);
}

/** @param {string} address @returns {Promise<any>} */
async function read(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.text()) || `${address}: ${answer.status}`);
  return answer.json();
}
