// What arrives: a bar a layer, on a log scale, the output first, as the error signal goes back.

import { choice, el, part } from "./dom.js";
import { gradientNorm, norm } from "./mathematics.js";
import { number } from "./numbers.js";
import { reached } from "./story.js";

/** @typedef {"delta" | "error" | "slope" | "dW"} Quantity */
/** @typedef {import("./mathematics.js").LayerPass} LayerPass */

const NOTHING = 1e-9; // ‖δ‖ of the output below which a run stands still

/** @type {Record<Quantity, {label: string, of: (p: LayerPass) => number, tag: (l: string) => string}>} */
const QUANTITIES = {
  delta: { label: "‖δ‖", of: (p) => norm(p.delta), tag: (l) => `delta_norm/layer${l}` },
  error: { label: "‖error‖", of: (p) => norm(p.error), tag: () => "" },
  slope: {
    label: "mean σ′",
    of: (p) => p.slope.reduce((s, v) => s + v, 0) / p.slope.length,
    tag: (l) => `slope/layer${l}`,
  },
  dW: { label: "‖∂C/∂W‖", of: gradientNorm, tag: (l) => `grad_norm/layer${l}.weight` },
};

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function staircase(root, store) {
  const { run } = store;
  const box = part(root, "staircase");
  const L = run.sizes.length - 1;
  /** @type {Quantity} */
  let quantity = "delta";
  const show = choice(
    part(root, "quantity"),
    /** @type {[Quantity, string][]} */ (
      Object.entries(QUANTITIES).map(([key, { label }]) => [key, label])
    ),
    (value) => {
      quantity = value;
      draw();
    },
  );

  function draw() {
    show(quantity);
    const { of, tag } = QUANTITIES[quantity];
    const values = store.pass.layers.map(of);
    const row = run.row(run.epochs[store.state.snapshot]);
    const ghosts = values.map((_, l) => {
      const found = row?.[tag(`${l + 1}`.padStart(2, "0"))];
      return typeof found === "number" && found > 0 ? found : null;
    });
    const logs = [...values, ...ghosts]
      .filter((v) => v !== null && v > 0)
      .map((v) => Math.log10(Number(v)));
    const low = Math.min(-2, Math.floor(Math.min(...logs, 0) - 0.3));
    const high = Math.max(0, Math.ceil(Math.max(...logs, low + 1)));
    const share = (/** @type {number} */ v) =>
      v > 0 ? Math.max(0, Math.min(1, (Math.log10(v) - low) / (high - low))) : 0;
    const rows = values.map((value, l) => {
      const there = reached(store.steps, store.state.step, quantity, l + 1);
      const bar = el("i");
      bar.style.width = there ? `${100 * share(value)}%` : "0";
      const ghost =
        ghosts[l] === null
          ? null
          : el("b", { title: `the epoch's mean of the batches: ${number(Number(ghosts[l]))}` });
      if (ghost) ghost.style.left = `${100 * share(Number(ghosts[l]))}%`;
      const ratio = l + 1 < L && values[l + 1] > 0 ? `× ${number(value / values[l + 1], 2)}` : "";
      return el(
        "tr",
        {},
        el(
          "th",
          { scope: "row" },
          `layer ${l + 1}`,
          el("small", {}, `${run.sizes[l]}→${run.sizes[l + 1]}`),
        ),
        el("td", { class: "bar" }, bar, ghost),
        el("td", { class: "value" }, there ? number(value, 3) : ""),
        el("td", { class: "value ratio" }, there ? ratio : ""),
      );
    });
    const head = el(
      "tr",
      {},
      el("th", { scope: "col" }, "layer"),
      el(
        "th",
        { scope: "col", class: "scale" },
        el("span", {}, power(low)),
        el("span", {}, power(high)),
      ),
      el("th", { scope: "col", class: "value" }, "value"),
      el("th", { scope: "col", class: "value", title: "to the layer after it" }, "ratio"),
    );
    box.replaceChildren(
      el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows.reverse())),
      el("p", { class: "sentence" }, sentence()),
      ghosts.some((g) => g !== null)
        ? el(
            "p",
            { class: "ghost" },
            el("b"),
            ` mean over the batches of epoch ${run.epochs[store.state.snapshot]}`,
          )
        : "",
    );
  }

  /** What the picture says, in words. */
  function sentence() {
    if (L < 2 || store.state.exercise || !reached(store.steps, store.state.step, "delta", 1))
      return "";
    const norms = store.pass.layers.map((p) => norm(p.delta));
    const [first, last] = [norms[0], norms[L - 1]];
    if (!(last > 0)) return "No error signal leaves the output: every δ there is 0.";
    if (last < NOTHING)
      return `Next to no error signal leaves the output: ‖δ‖ is ${number(last, 2)} there, and no weight moves.`;
    if (!(first > 0)) return "No error signal reaches layer 1.";
    const times = last / first;
    if (times >= 100)
      return `δ is ${Math.round(Number(times.toPrecision(2))).toLocaleString("en")} times smaller in layer 1 than in layer ${L}: the gradient vanishes on its way back.`;
    if (times > 0.95 && times < 1.05) return `δ is as large in layer 1 as in layer ${L}.`;
    return times >= 1
      ? `δ is ${number(Number(times.toPrecision(2)))} times smaller in layer 1 than in layer ${L}.`
      : `δ is ${number(Number((1 / times).toPrecision(2)))} times larger in layer 1 than in layer ${L}.`;
  }

  store.on(["pass", "step", "snapshot", "exercise"], draw);
}

/** 10⁻⁷ @param {number} exponent */
const power = (exponent) =>
  `10${`${exponent}`.replace("-", "⁻").replace(/\d/g, (d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(d)])}`;
