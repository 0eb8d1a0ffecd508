// A second run beside the first: what is chosen in one is chosen in the other.

import { el, part } from "./dom.js";
import { view } from "./main.js";

/** @typedef {import("./data.js").Data} Data */
/** @typedef {import("./store.js").Store} Store */
/** @typedef {import("./store.js").State} State */

/** The data of a look.html, read as text: nothing in the file is run.
 * @param {string} text @returns {Data} */
export function dataOf(text) {
  const found = new DOMParser().parseFromString(text, "text/html").querySelector("script#data");
  if (!found) throw new Error("this file is no look.html: it holds no data");
  return JSON.parse(found.textContent ?? "");
}

/** @param {HTMLElement} page holds the first run's page; the second goes after it
 * @param {HTMLElement} root of the first run @param {Store} store @param {Data} data */
export function beside(page, root, store, data) {
  page.querySelectorAll(".look.second").forEach((old) => old.remove());
  const second = el("div", { class: "second", "data-theme": store.state.theme });
  page.append(second);
  const other = view(second, data);
  page.classList.add("two");
  const close = el("button", { type: "button" }, "Close");
  close.addEventListener("click", () => {
    second.remove();
    page.classList.remove("two");
  });
  part(second, "file").closest("label")?.replaceWith(close);
  /** @type {(keyof State)[]} */
  const shared = ["notation", "exercise", "theme", "step"];
  const same = (/** @type {Store} */ s) =>
    s.run.sizes[0] === store.run.sizes[0] && s.run.sizes.at(-1) === store.run.sizes.at(-1);
  /** @param {Store} from @param {Store} to */
  const follow = (from, to) =>
    from.listeners.push((changed) => {
      if (!second.isConnected) return;
      /** @type {Partial<State>} */
      const patch = {};
      for (const key of shared)
        if (changed.has(key) && (key !== "step" || from.steps.length === to.steps.length))
          Object.assign(patch, { [key]: from.state[key] });
      if (changed.has("x") && same(to) && differ(from.state.x, to.state.x))
        Object.assign(patch, {
          x: from.state.x,
          y: from.state.y,
          image: sameImage(from, to),
          costs: [],
        });
      to.set(patch);
    });
  follow(store, other);
  follow(other, store);
  if (same(other))
    other.set({ x: store.state.x, y: store.state.y, image: sameImage(store, other) });
  root.scrollIntoView();
}

/** @param {Float64Array} a @param {Float64Array} b */
const differ = (a, b) => a.some((v, i) => v !== b[i]);

/** The number of the same image in the other run, if it has it.
 * @param {Store} from @param {Store} to */
function sameImage(from, to) {
  const { image, x } = from.state;
  if (image === null) return null;
  const all = [image, ...Array(to.run.images).keys()].filter((i) => i < to.run.images);
  return all.find((i) => !differ(to.run.x(i), x)) ?? null;
}

/** Listen for a file that is chosen or dropped. @param {HTMLElement} page
 * @param {HTMLElement} root @param {() => Store} store */
export function listen(page, root, store) {
  const file = /** @type {HTMLInputElement} */ (part(root, "file"));
  /** @param {File | null | undefined} chosen */
  const open = async (chosen) => {
    if (!chosen) return;
    try {
      beside(page, root, store(), dataOf(await chosen.text()));
    } catch (error) {
      const line = el(
        "p",
        { role: "alert" },
        `${chosen.name}: ${error instanceof Error ? error.message : error}`,
      );
      part(root, "trouble").append(line);
    }
    file.value = "";
  };
  file.addEventListener("change", () => open(file.files?.[0]));
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer?.files[0]);
  });
}
