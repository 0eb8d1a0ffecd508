// The weights of a first-layer unit and their gradient, as pictures of the image's shape.

import { colourOf, picture } from "./colours.js";
import { el, part } from "./dom.js";
import { row } from "./formulas.js";
import { highest, largest, number } from "./numbers.js";

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function pictures(root, store) {
  const box = part(root, "pictures");
  const shape = store.run.shape;
  if (!shape) return box.remove();
  const title = el("h2");
  const figures = [0, 1].map(() => ({
    canvas: el("canvas", { role: "img" }),
    caption: el("figcaption"),
  }));
  box.append(
    title,
    el(
      "div",
      { class: "figures" },
      ...figures.map(({ canvas, caption }) => el("figure", {}, canvas, caption)),
    ),
  );
  store.on(["pass", "pinned", "hovered", "theme"], () => {
    const { colours } = store;
    const p = store.pass.layers[0];
    const { layer, unit } = store.unit;
    const own = layer === 1 ? unit : largest(p.delta, 1)[0];
    const W = row(store.state.layers[0], own);
    const dW = p.before.map((a) => p.delta[own] * a); // ∂C/∂W = δ xᵀ, one row  (n_in)
    title.replaceChildren(
      `Layer 1, unit ${own + 1}`,
      el("small", {}, layer === 1 ? "the chosen one" : "the one with the largest δ"),
    );
    /** @type {[string, Float64Array][]} */
    const told = [
      ["weights", W],
      ["∂C/∂W, for this image", dW],
    ];
    told.forEach(([name, values], i) => {
      const most = highest(values);
      picture(figures[i].canvas, values, shape[1], (v) => colourOf(colours, v, most, true));
      figures[i].caption.replaceChildren(name, el("span", { class: "value" }, `≤ ${number(most)}`));
      figures[i].canvas.setAttribute(
        "aria-label",
        `${name}: blue below 0, red above, at most ${number(most)}`,
      );
    });
  });
}
