// A drawing made into an image as MNIST's were: 20 pixels at its longest, its centre of mass in the
// middle of 28 × 28.

/** @typedef {{values: Float64Array, width: number, height: number}} Ink values from 0 to 1 */

/** Where there is ink. @param {Ink} ink @returns {[number, number, number, number] | null} */
function box({ values, width }) {
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  values.forEach((v, i) => {
    if (v < 0.1) return;
    const [column, row] = [i % width, Math.floor(i / width)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
  });
  return right < 0 ? null : [left, top, right - left + 1, bottom - top + 1];
}

/** @param {Ink} ink @param {number} height of the image @param {number} width
 * @returns {Float64Array} the image's pixels, row by row, from 0 to 1 */
export function centred(ink, height, width) {
  const image = new Float64Array(height * width);
  const found = box(ink);
  if (!found) return image;
  const [left, top, w, h] = found;
  const longest = height === 28 && width === 28 ? 20 : Math.min(height, width);
  const pixel = Math.max(w, h) / longest; // of the drawing, for one of the image
  const [columns, rows] = [w, h].map((side) => Math.max(1, Math.round(side / pixel)));
  const small = new Float64Array(rows * columns);
  let [mass, x, y, most] = [0, 0, 0, 0];
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++) {
      const v = mean(ink, left + (c * w) / columns, top + (r * h) / rows, w / columns, h / rows);
      small[r * columns + c] = v;
      [mass, x, y, most] = [mass + v, x + v * (c + 0.5), y + v * (r + 0.5), Math.max(most, v)];
    }
  const place = (/** @type {number} */ side, /** @type {number} */ n, /** @type {number} */ at) =>
    Math.min(side - n, Math.max(0, Math.round(side / 2 - at)));
  const [right, down] = [place(width, columns, x / mass), place(height, rows, y / mass)];
  for (let r = 0; r < rows; r++)
    for (let c = 0; c < columns; c++)
      image[(r + down) * width + c + right] = small[r * columns + c] / most;
  return image;
}

/** The whole drawing as an image, where pictures are not centred. @param {Ink} ink
 * @param {number} height of the image @param {number} width @returns {Float64Array} */
export function whole(ink, height, width) {
  const [w, h] = [ink.width / width, ink.height / height];
  return Float64Array.from({ length: height * width }, (_, i) =>
    mean(ink, (i % width) * w, Math.floor(i / width) * h, w, h),
  );
}

/** The mean of a rectangle of the drawing. @param {Ink} ink @param {number} left
 * @param {number} top @param {number} w @param {number} h */
function mean({ values, width, height }, left, top, w, h) {
  let [sum, count] = [0, 0];
  for (let r = Math.floor(top); r < Math.min(height, Math.ceil(top + h)); r++)
    for (let c = Math.floor(left); c < Math.min(width, Math.ceil(left + w)); c++) {
      sum += values[r * width + c];
      count++;
    }
  return count ? sum / count : 0;
}
