// The outputs beside the target: a bar for a, a mark for y. For a document's network, boxes for x, y.

import { el, part } from "./dom.js";
import { argmax, number } from "./numbers.js";

const FEW = 16; // entries of x up to which each has a box

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function outputs(root, store) {
  const { run } = store;
  const box = part(root, "outputs");
  const names =
    run.data.classes ??
    run.classes.map((_, j) => store.notation.symbol("a", run.sizes.length - 1, j));
  const rows = names.map((name) => {
    const bar = el("i");
    const mark = el("b");
    const value = el("span", { class: "value" });
    const line = el(
      "div",
      { class: "output" },
      el("span", { class: "class" }, name),
      el("span", { class: "track" }, bar, mark),
      value,
    );
    return { bar, mark, value, line };
  });
  const head = el(
    "div",
    { class: "output key" },
    el("span", {}),
    el("span", {}, "output a,  ▏target y"),
    el("span", { class: "value" }, "a"),
  );
  box.append(head, ...rows.map(({ line }) => line));
  if (run.example && run.sizes[0] <= FEW) box.before(inputs(store));

  store.on(["pass", "step", "exercise"], () => {
    const { y, step, exercise } = store.state;
    const a = store.pass.layers[store.pass.layers.length - 1].a;
    const hidden = step !== null && step < store.steps.findIndex((s) => s.kind === "C") - 1;
    const said = argmax(a);
    rows.forEach(({ bar, mark, value, line }, j) => {
      const share = (/** @type {number} */ v) => `${100 * Math.min(1, Math.max(0, v))}%`;
      bar.style.width = hidden ? "0" : share(a[j]);
      mark.style.left = share(y[j]);
      value.textContent = hidden ? "" : number(a[j], 2);
      line.classList.toggle("said", !hidden && j === said);
    });
    const told = rows.map((_, j) => `${names[j]}: a ${number(a[j])}, y ${number(y[j])}`);
    box.setAttribute(
      "aria-label",
      `Outputs. ${exercise ? "Hidden in the exercise" : told.join("; ")}`,
    );
  });
}

/** Boxes for x and y. @param {import("./store.js").Store} store */
function inputs(store) {
  /** @param {"x" | "y"} key */
  const boxes = (key) =>
    Array.from(store.state[key], (value, i) => {
      const input = el("input", {
        type: "number",
        step: "any",
        value,
        "aria-label": `${key} ${i + 1}`,
      });
      input.addEventListener("change", () => {
        if (!Number.isFinite(input.valueAsNumber)) return;
        const values = Float64Array.from(store.state[key]);
        values[i] = input.valueAsNumber;
        store.set({ [key]: values, costs: [] });
      });
      return el("label", {}, `${key}${store.state[key].length > 1 ? ` ${i + 1}` : ""}`, input);
    });
  return el("div", { class: "inputs" }, ...boxes("x"), ...boxes("y"));
}
