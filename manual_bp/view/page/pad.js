// The chosen image, large; a person draws on it to make one of their own.

import { centred, whole } from "./centre.js";
import { picture, shade } from "./colours.js";
import { el, part } from "./dom.js";
import { pass } from "./mathematics.js";
import { argmax } from "./numbers.js";

const SIDE = 168; // pixels of the pad
const PEN = 13;

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function pad(root, store) {
  const { run } = store;
  const canvas = /** @type {HTMLCanvasElement} */ (part(root, "pad"));
  const target = /** @type {HTMLSelectElement} */ (part(root, "target"));
  const verdict = part(root, "verdict");
  if (run.example || !run.shape) {
    for (const found of [canvas, target.parentElement, part(root, "clear")]) found?.remove();
    return;
  }
  const [rows, columns] = run.shape;
  target.append(...run.classes.map((name, j) => el("option", { value: j }, name)));
  const paper = el("canvas", { width: SIDE, height: SIDE }); // the drawing itself: white on black
  const pen = /** @type {CanvasRenderingContext2D} */ (
    paper.getContext("2d", { willReadFrequently: true })
  );
  let drawing = false; // the pad shows a drawing
  let down = false; // the pen is on it
  let told = false; // the person has said which digit it is

  function blank() {
    drawing = true;
    told = false;
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, SIDE, SIDE);
    Object.assign(pen, {
      strokeStyle: "#fff",
      lineWidth: PEN,
      lineCap: "round",
      lineJoin: "round",
    });
    take();
  }

  /** The drawing as the network sees it. */
  function take() {
    const { data } = pen.getImageData(0, 0, SIDE, SIDE);
    const values = Float64Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i] / 255);
    const ink = { values, width: SIDE, height: SIDE };
    const x = run.asTaken
      ? whole(ink, rows, columns).map((v) => (run.brightPaper ? 1 - v : v))
      : centred(ink, rows, columns);
    const { layers, y } = store.state;
    const done = pass(layers, x, y, run.s);
    const said = argmax(done.layers[done.layers.length - 1].a);
    store.set({
      image: null,
      x,
      hovered: null,
      costs: [],
      ...(told ? {} : { y: run.target(said) }),
    });
  }

  /** @param {PointerEvent} event */
  function at(event) {
    const { left, top, width } = canvas.getBoundingClientRect();
    const scale = SIDE / width;
    return /** @type {const} */ ([(event.clientX - left) * scale, (event.clientY - top) * scale]);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!drawing) blank();
    down = true;
    canvas.setPointerCapture(event.pointerId);
    pen.beginPath();
    pen.moveTo(...at(event));
    pen.lineTo(...at(event));
    pen.stroke();
    take();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!down) return;
    pen.lineTo(...at(event));
    pen.stroke();
    take();
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, () => (down = false));
  part(root, "clear").addEventListener("click", blank);
  target.addEventListener("change", () => {
    told = true;
    store.set({ y: run.target(Number(target.value)), costs: [] });
  });

  store.on(["image", "x", "theme"], () => {
    const { colours } = store;
    if (store.state.image !== null) drawing = false;
    if (drawing) {
      const { data } = pen.getImageData(0, 0, SIDE, SIDE);
      const grey = Float64Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i] / 255);
      const pixel = shade(run, colours);
      picture(canvas, grey, SIDE, (v) => pixel(run.brightPaper ? 1 - v : v));
    } else picture(canvas, store.state.x, columns, shade(run, colours));
    const label = drawing ? "Your drawing" : run.nameOf(store.state.image ?? 0);
    canvas.setAttribute("aria-label", `${label}; draw on it with mouse, pen or finger`);
    canvas.setAttribute("role", "img");
  });
  store.on(["pass", "exercise", "snapshot"], () => {
    const { y, image } = store.state;
    const a = store.pass.layers[store.pass.layers.length - 1].a;
    const [said, label] = [argmax(a), argmax(y)];
    target.value = `${label}`;
    const right = said === label;
    const judged = drawing && !told ? "" : right ? "right" : "wrong";
    canvas.title = image === null ? "your drawing" : run.nameOf(image);
    verdict.replaceChildren(
      "The network says ",
      el("strong", { class: judged }, run.classes[said]),
      image === null
        ? ""
        : el("span", {}, right ? " and is right." : `. The label is ${run.classes[label]}.`),
    );
  });
}
