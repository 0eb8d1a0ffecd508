// The data of a page (format 1, described in bundle.py) as a run: weights, images, metrics.

/** @typedef {import("./mathematics.js").Layer} Layer */
/** @typedef {{epoch?: number, [tag: string]: number | null | undefined}} Row */
/** @typedef {{format: number, kind: "run" | "example", name: string, sizes: number[],
 *   activations: string[], cost: string, lr: number, batch?: number, seed?: number,
 *   epochs_planned?: number, finished?: boolean, classes?: string[], image_shape?: number[],
 *   images?: string, part?: string, indices?: number[], pixel_scale?: number, labels?: number[],
 *   as_taken?: boolean, epochs: number[],
 *   weights: (string | number[])[], metrics?: Row[],
 *   trouble?: {epoch: number | null, text: string}[], x?: number[], y?: number[],
 *   bias?: boolean, units?: string[][] | null, notation?: 1 | 2 | 3, title?: string}} Data */

/** @param {string} text in base64 */
function bytes(text) {
  const told = atob(text);
  const found = new Uint8Array(told.length);
  for (let i = 0; i < told.length; i++) found[i] = told.charCodeAt(i);
  return found;
}

// s of C = s Σ (a − y)² for one example, as in normalisation.py
/** @type {Record<string, (n: number) => number>} */
const SCALE = {
  half_per_example: () => 1 / 2,
  half_per_element: (n) => 1 / (2 * n),
  mean: (n) => 1 / n,
  sum: () => 1,
};

export class Run {
  /** @param {Data} data */
  constructor(data) {
    if (data.format !== 1)
      throw new Error(`data of format ${data.format}: this page reads format 1`);
    this.data = data;
    this.sizes = data.sizes;
    this.example = data.kind === "example";
    this.classes = data.classes ?? Array.from({ length: data.sizes.at(-1) ?? 0 }, (_, j) => `${j}`);
    this.labels = data.labels ?? [];
    this.epochs = data.epochs;
    this.metrics = (data.metrics ?? []).filter((row) => row.epoch !== undefined);
    this.trouble = data.trouble ?? [];
    this.shape = data.image_shape && data.image_shape.length === 2 ? data.image_shape : null;
    this.pixels = data.images ? bytes(data.images) : new Uint8Array(0);
    // Somebody's own pictures are as they were taken: not bright on dark, not centred.
    this.asTaken = data.as_taken === true;
    this.brightPaper = this.asTaken && this.edge() > 0.5;
    // A run's page shows ½‖a − y‖² whatever the run's own cost; an example keeps the document's.
    this.cost = this.example ? data.cost : "half_per_example";
    this.s = (SCALE[this.cost] ?? SCALE.half_per_example)(data.sizes.at(-1) ?? 1);
    /** @type {Map<number, Layer[]>} */
    this.decoded = new Map();
  }

  /** How bright the images are at their edges, from 0 to 1. */
  edge() {
    const [rows, columns] = this.shape ?? [1, this.sizes[0]];
    const at = Array.from({ length: rows * columns }, (_, i) => i).filter((i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      return row === 0 || column === 0 || row === rows - 1 || column === columns - 1;
    });
    let sum = 0;
    for (let i = 0; i < this.labels.length; i++)
      for (const k of at) sum += this.pixels[i * rows * columns + k];
    return sum / (255 * Math.max(1, at.length * this.labels.length));
  }

  /** How many images there are. */
  get images() {
    return this.example ? 1 : this.labels.length;
  }

  /** The layers of snapshot k: float32 as trained, or an example's exact numbers.
   * @param {number} k @returns {Layer[]} */
  layers(k) {
    const known = this.decoded.get(k);
    if (known) return known;
    const stored = this.data.weights[k];
    const all =
      typeof stored === "string"
        ? new Float64Array(new Float32Array(bytes(stored).buffer)) // exact: float32 fits
        : Float64Array.from(stored);
    const bias = this.data.bias !== false;
    let at = 0;
    const layers = this.data.activations.map((activation, l) => {
      const [nIn, nOut] = [this.sizes[l], this.sizes[l + 1]];
      const W = all.subarray(at, (at += nIn * nOut));
      const b = bias ? all.subarray(at, (at += nOut)) : null;
      return { nIn, nOut, W, b, sigmoid: activation !== "linear" };
    });
    if (at !== all.length)
      throw new Error(`snapshot of epoch ${this.epochs[k]}: ${all.length} numbers, not ${at}`);
    this.decoded.set(k, layers);
    return layers;
  }

  /** The input of image i. @param {number} i @returns {Float64Array} */
  x(i) {
    if (this.data.x) return Float64Array.from(this.data.x);
    const n = this.sizes[0];
    const scale = this.data.pixel_scale ?? 1 / 255;
    return new Float64Array(this.pixels.subarray(i * n, (i + 1) * n)).map((byte) => byte * scale);
  }

  /** The target of image i. @param {number} i @returns {Float64Array} */
  y(i) {
    return this.data.y ? Float64Array.from(this.data.y) : this.target(this.labels[i]);
  }

  /** 1 for one class and 0 for the others. @param {number} label @returns {Float64Array} */
  target(label) {
    const y = new Float64Array(this.sizes.at(-1) ?? 0);
    y[label] = 1;
    return y;
  }

  /** What an image is called: by its place in the part of the data it comes from, if that is known.
   * @param {number} i */
  nameOf(i) {
    const index = this.data.indices?.[i];
    return index === undefined ? `Image ${i}` : `Image ${index} of ${this.data.part ?? "the data"}`;
  }

  /** The row of metrics.jsonl of an epoch. @param {number} epoch @returns {Row | undefined} */
  row(epoch) {
    return this.metrics.find((row) => row.epoch === epoch && row["cost/train"] !== undefined);
  }
}
