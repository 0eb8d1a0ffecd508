// A document's network, small enough to draw every unit and every weight with its number.

import { colourOf, css } from "./colours.js";
import { el, part, svg } from "./dom.js";
import { exactly, highest, number } from "./numbers.js";
import { shownAt } from "./story.js";

const [WIDTH, PITCH, RADIUS] = [620, 104, 25];

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function smallNetwork(root, store) {
  const { run } = store;
  const box = part(root, "net");
  const L = run.sizes.length - 1;
  const height = PITCH * Math.max(...run.sizes) + 34;
  const x = (/** @type {number} */ l) => 64 + (l * (WIDTH - 128)) / L;
  const y = (/** @type {number} */ l, /** @type {number} */ u) =>
    24 + (height - 34) / 2 + (u - (run.sizes[l] - 1) / 2) * PITCH;
  const told = (/** @type {number} */ v) => (store.state.exercise ? "?" : exactly(v));

  function draw() {
    const { colours } = store;
    const { layers, pinned, step, exercise } = store.state;
    const n = store.notation;
    const drawn = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${height}`,
      class: "small",
      role: "img",
      "aria-label": `The network ${run.sizes.join("-")} with all its weights`,
    });
    const most = highest(Float64Array.from(layers.flatMap(({ W }) => Array.from(W))));
    layers.forEach((layer, l) => {
      for (let j = 0; j < layer.nOut; j++)
        for (let i = 0; i < layer.nIn; i++) {
          const w = layer.W[j * layer.nIn + i];
          const [x0, y0, x1, y1] = [x(l) + RADIUS, y(l, i), x(l + 1) - RADIUS, y(l + 1, j)];
          const chosen = pinned.layer === l + 1 && pinned.unit === j;
          drawn.append(
            svg("line", {
              x1: x0,
              y1: y0,
              x2: x1,
              y2: y1,
              stroke: css(w < 0 ? colours.minus : colours.plus, chosen ? 1 : 0.6),
              "stroke-width": 1 + (3 * Math.abs(w)) / (most || 1),
            }),
          );
          // Each label stands on its line near where the line starts: there lines are apart.
          const cross = layer.nIn > 1 && layer.nOut > 1;
          const share = cross ? 0.3 : 0.5;
          const [cx, cy] = [x0 + (x1 - x0) * share, y0 + (y1 - y0) * share];
          const label = [n.weight(l + 1, j, i), exactly(w)];
          const told = cross ? [label.join(" = ")] : label;
          told.forEach((text, k) =>
            drawn.append(svg("text", { x: cx, y: cy - 5 + 21 * k, class: "weight" }, text)),
          );
        }
    });
    for (let l = 0; l <= L; l++) {
      drawn.append(svg("text", { x: x(l), y: 14, class: "layer" }, l ? `layer ${l}` : "input"));
      const p = store.pass.layers[l - 1];
      const shown = l ? shownAt(store.steps, step, l) : null;
      for (let u = 0; u < run.sizes[l]; u++) {
        const value = l ? (shown?.forward ? p[shown.forward][u] : null) : store.state.x[u];
        const back = l && shown?.backward ? p[shown.backward][u] : null;
        const group = svg("g", { class: l ? "node" : "node input" });
        const fill =
          value === null
            ? css(colours.paper)
            : css(colourOf(colours, value, Math.max(1, Math.abs(value)) * 2.2, true));
        const circle = svg("circle", { cx: x(l), cy: y(l, u), r: RADIUS, fill });
        if (l && pinned.layer === l && pinned.unit === u) circle.setAttribute("class", "kept");
        const name = n.symbol(l === 0 ? "x" : (shown?.forward ?? "a"), l, u);
        group.append(circle, svg("text", { x: x(l), y: y(l, u) - 4, class: "name" }, name));
        if (value !== null)
          group.append(
            svg(
              "text",
              { x: x(l), y: y(l, u) + 11, class: "value" },
              l ? told(value) : exactly(value),
            ),
          );
        if (back !== null) {
          const label = { error: "error", slope: "σ′", delta: "δ" }[shown?.backward ?? "delta"];
          group.append(
            svg(
              "text",
              { x: x(l), y: y(l, u) + RADIUS + 14, class: "delta" },
              exercise ? `${label} = ?` : `${label} = ${number(back)}`,
            ),
          );
        }
        if (l) {
          group.append(svg("title", {}, `layer ${l}, unit ${u + 1}`));
          group.addEventListener("click", () =>
            store.set({ pinned: { layer: l, unit: u }, hovered: null }),
          );
        }
        drawn.append(group);
      }
      const b = layers[l - 1]?.b;
      if (b)
        Array.from(b).forEach((v, u) =>
          drawn.append(
            svg(
              "text",
              { x: x(l), y: y(l, u) - RADIUS - 5, class: "weight" },
              `${n.symbol("b", l, u)} = ${exactly(v)}`,
            ),
          ),
        );
    }
    box.replaceChildren(
      drawn,
      el(
        "p",
        { class: "cost" },
        `${n.costFormula(run.s)} = ${exercise ? "?" : number(store.pass.cost)},  λ = ln 3 ≈ 1.0986`,
      ),
    );
  }
  store.on(["pass", "step", "pinned", "notation", "exercise", "theme"], draw);
}
