// Where the network stands on its canvas: a column a layer, two strips a column, a cell a unit.

/** @typedef {import("./store.js").Store} Store */
/** @typedef {{x: number, y: number, rows: number, columns: number, w: number, h: number}} Strip */
/** @typedef {{n: number, x: number, width: number, strips: Strip[]}} Column */

export const HEIGHT = 268; // of the strips
export const SIDE = 16; // at the right, for the labels of the last layer
const GAP = 7; // between the two strips of a layer

/** Cells of one strip: one column where they fit, more where they would be too thin.
 * @param {number} n @param {number} room pixels for a strip of one column
 * @returns {{rows: number, columns: number, w: number, h: number}} */
function cells(n, room) {
  const thinnest = n > 300 ? 5 : 7;
  const columns = Math.ceil(n / Math.floor(HEIGHT / thinnest));
  const rows = Math.ceil(n / columns);
  const h = Math.min(22, HEIGHT / rows);
  return { rows, columns, w: columns === 1 ? room : Math.min(h, 7), h };
}

/** Where everything stands. @param {Store} store @param {number} width @returns {Column[]} */
export function layOut({ run }, width) {
  const L = run.sizes.length - 1;
  const room = Math.max(9, Math.min(26, width / (4.6 * L + 4)));
  const columns = run.sizes.map((n, l) => {
    const picture = l === 0 && run.shape !== null;
    const grid = cells(n, room);
    const one = picture ? Math.max(44, Math.min(140, width / (L + 2.4))) : grid.columns * grid.w;
    return { n, grid, picture, one, width: l === 0 ? one : 2 * one + GAP };
  });
  const taken = columns.reduce((sum, c) => sum + c.width, 0);
  const gap = Math.max(10, (width - taken - 1 - SIDE) / L);
  let x = 1;
  return columns.map(({ n, grid, picture, one, width: own }) => {
    const sides = picture && run.shape ? { rows: run.shape[0], columns: run.shape[1] } : null;
    const cell = sides ? { ...sides, w: one / sides.columns, h: one / sides.columns } : grid;
    const y = (HEIGHT - cell.rows * cell.h) / 2;
    const strips =
      own > one
        ? [
            { ...cell, x, y },
            { ...cell, x: x + one + GAP, y },
          ]
        : [{ ...cell, x, y }];
    const column = { n, x, width: own, strips };
    x += own + gap;
    return column;
  });
}

/** A picture is filled row by row, a strip column by column. @param {Strip} s @param {number} i
 * @param {boolean} picture @returns {[number, number]} the middle of a cell */
export function middle(s, i, picture) {
  const [r, c] = picture
    ? [Math.floor(i / s.columns), i % s.columns]
    : [i % s.rows, Math.floor(i / s.rows)];
  return [s.x + (c + 0.5) * s.w, s.y + (r + 0.5) * s.h];
}
