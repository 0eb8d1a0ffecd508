// Cost and accuracy over the epochs; the marker is the epoch whose weights are shown.

import { el, part, svg } from "./dom.js";
import { number } from "./numbers.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [320, 100, 40, 16, 18];

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function curves(root, store) {
  const { run } = store;
  if (run.epochs.length < 2) return part(root, "time").remove();
  const slider = /** @type {HTMLInputElement} */ (part(root, "slider"));
  slider.max = `${run.epochs.length - 1}`;
  slider.addEventListener("input", () => store.chooseSnapshot(Number(slider.value)));
  const rows = run.metrics.filter((row) => typeof row["cost/train"] === "number");
  const first = Math.min(run.epochs[0], ...rows.map((row) => Number(row.epoch)));
  const last = Math.max(1, run.epochs.at(-1) ?? 1, ...rows.map((row) => Number(row.epoch)));
  const x = (/** @type {number} */ epoch) =>
    LEFT + ((epoch - first) / (last - first)) * (WIDTH - LEFT - 8);

  /** @param {string} name @param {string} title @param {number | null} top */
  function chart(name, title, top) {
    const values = rows.flatMap((row) => [row[`${name}/train`], row[`${name}/validation`]]);
    const most = top ?? Math.max(1e-9, ...values.map((v) => Number(v ?? 0))) * 1.05;
    const y = (/** @type {number} */ v) =>
      TOP + (1 - Math.min(1, v / most)) * (HEIGHT - TOP - BOTTOM);
    const path = (/** @type {string} */ which) =>
      rows
        .filter((row) => typeof row[`${name}/${which}`] === "number")
        .map(
          (row) =>
            `${x(Number(row.epoch)).toFixed(1)},${y(Number(row[`${name}/${which}`])).toFixed(1)}`,
        )
        .join(" ");
    const line = (/** @type {string} */ which) => {
      const points = path(which);
      const dots = points
        .split(" ")
        .filter(Boolean)
        .map((at) => {
          const [cx, cy] = at.split(",");
          return svg("circle", { cx, cy, r: rows.length > 20 ? 0 : 2, class: which });
        });
      return [svg("polyline", { points, class: which }), ...dots];
    };
    const text = (/** @type {number} */ v) =>
      top === 1 ? `${Math.round(100 * v)} %` : number(Number(v.toPrecision(2)));
    const marker = svg("line", { y1: TOP - 4, y2: HEIGHT - BOTTOM, class: "marker" });
    const drawn = svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} over the epochs` },
      svg("line", { x1: LEFT, x2: WIDTH - 8, y1: y(0), y2: y(0), class: "axis" }),
      svg("line", { x1: LEFT, x2: WIDTH - 8, y1: y(most), y2: y(most), class: "axis faint" }),
      svg("text", { x: LEFT - 5, y: y(most) + 4, class: "left" }, text(most)),
      svg("text", { x: LEFT - 5, y: y(0) + 2, class: "left" }, "0"),
      svg("text", { x: LEFT, y: TOP - 7 }, title),
      svg("text", { x: x(first), y: HEIGHT - 3, class: "middle" }, `${first}`),
      svg("text", { x: x(last), y: HEIGHT - 3, class: "middle" }, `${last}`),
      ...line("train"),
      ...line("validation"),
      marker,
    );
    drawn.addEventListener("click", (event) => {
      const { clientX } = /** @type {MouseEvent} */ (event);
      const { left, width } = drawn.getBoundingClientRect();
      const at = ((clientX - left) / width) * WIDTH;
      const gaps = run.epochs.map((epoch) => Math.abs(x(epoch) - at));
      store.chooseSnapshot(gaps.indexOf(Math.min(...gaps)));
    });
    return { drawn, marker };
  }

  const charts = rows.length ? [chart("cost", "cost", null), chart("accuracy", "accuracy", 1)] : [];
  part(root, "curves").append(...charts.map(({ drawn }) => drawn));
  if (charts.length)
    part(root, "curves").append(
      el(
        "p",
        { class: "legend" },
        el("i", { class: "train" }),
        " training ",
        el("i", { class: "validation" }),
        " validation",
      ),
    );

  store.on(["snapshot"], () => {
    const epoch = run.epochs[store.state.snapshot];
    slider.value = `${store.state.snapshot}`;
    const label = epoch === 0 ? "epoch 0: nothing learned yet" : `weights after epoch ${epoch}`;
    slider.setAttribute("aria-valuetext", label);
    part(root, "epoch").textContent = label;
    for (const { marker } of charts)
      for (const end of ["x1", "x2"]) marker.setAttribute(end, `${x(epoch)}`);
  });
}
