// The images to choose from, with what the network of the chosen epoch says to each.

import { picture, shade } from "./colours.js";
import { choice, el, part } from "./dom.js";
import { pass } from "./mathematics.js";
import { argmax } from "./numbers.js";

/** @typedef {"all" | "wrong" | "worst"} Filter */

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function gallery(root, store) {
  const { run } = store;
  const box = part(root, "gallery");
  const chosenClass = /** @type {HTMLSelectElement} */ (part(root, "class"));
  if (run.images < 2) {
    for (const name of ["gallery", "filter", "class"]) part(root, name).remove();
    return;
  }
  chosenClass.append(
    el("option", { value: "" }, "any class"),
    ...run.classes.map((name, j) => el("option", { value: j }, name)),
  );
  /** @type {Filter} */
  let filter = "all";
  const show = choice(
    part(root, "filter"),
    /** @type {[Filter, string][]} */ ([
      ["all", "All"],
      ["wrong", "Wrong"],
      ["worst", "Worst"],
    ]),
    (value) => {
      filter = value;
      arrange();
    },
  );
  const thumbs = run.labels.map((_, i) => {
    const canvas = el("canvas");
    const button = el("button", { type: "button", onclick: () => store.chooseImage(i) }, canvas);
    return { button, canvas, cost: 0, said: -1 };
  });

  /** Ask the network of this epoch about every image. */
  function judge() {
    const layers = run.layers(store.state.snapshot);
    thumbs.forEach((thumb, i) => {
      const done = pass(layers, run.x(i), run.y(i), run.s);
      thumb.cost = done.cost;
      thumb.said = argmax(done.layers[done.layers.length - 1].a);
      const wrong = thumb.said !== run.labels[i];
      const told = `${run.classes[run.labels[i]]}, the network says ${run.classes[thumb.said]}`;
      thumb.button.classList.toggle("wrong", wrong);
      thumb.button.setAttribute("aria-label", `${run.nameOf(i)}: ${told}${wrong ? ", wrong" : ""}`);
      thumb.button.title = told;
    });
    arrange();
  }

  /** Show what the filters let through, in their order. */
  function arrange() {
    show(filter);
    const only = chosenClass.value === "" ? null : Number(chosenClass.value);
    let shown = Array.from(thumbs.keys()).filter((i) => only === null || run.labels[i] === only);
    if (filter === "wrong") shown = shown.filter((i) => thumbs[i].said !== run.labels[i]);
    if (filter === "worst") shown.sort((i, j) => thumbs[j].cost - thumbs[i].cost);
    box.replaceChildren(...shown.map((i) => thumbs[i].button));
    if (shown.length === 0)
      box.append(el("p", {}, "No image here is wrong. Try an earlier epoch."));
  }

  /** Scroll the box, and not the page, so far that a chosen image is seen.
   * @param {HTMLElement} button */
  function bring(button) {
    const [top, bottom] = [
      button.offsetTop - box.offsetTop,
      button.offsetTop - box.offsetTop + button.offsetHeight,
    ];
    if (top < box.scrollTop || bottom > box.scrollTop + box.clientHeight) box.scrollTop = top - 4;
  }

  chosenClass.addEventListener("change", arrange);
  let waiting = 0;
  let judged = -1;
  store.on(["snapshot"], () => {
    clearTimeout(waiting);
    if (judged < 0)
      judge(); // at once when the page opens; a moving slider waits until it rests
    else waiting = setTimeout(judge, 40);
    judged = store.state.snapshot;
  });
  store.on(["theme"], () => {
    const { colours } = store;
    const n = run.sizes[0];
    const scale = run.data.pixel_scale ?? 1 / 255;
    const pixel = shade(run, colours);
    thumbs.forEach(({ canvas }, i) =>
      picture(canvas, run.pixels.subarray(i * n, (i + 1) * n), run.shape?.[1] ?? n, (byte) =>
        pixel(byte * scale),
      ),
    );
  });
  store.on(["image"], () =>
    thumbs.forEach(({ button }, i) => {
      const chosen = i === store.state.image;
      button.setAttribute("aria-pressed", `${chosen}`);
      if (chosen) bring(button);
    }),
  );
}
