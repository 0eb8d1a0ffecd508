// One unit: its lines with the numbers filled in, and its sums term by term. In the exercise the
// results are boxes; a line appears when the one before it is solved.

import { choice, el, part } from "./dom.js";
import { pencilOf, terms, unitLines } from "./formulas.js";
import { exactly, number } from "./numbers.js";

/** @typedef {import("./formulas.js").Line} Line */

const ROWS = 40; // terms listed at first
const ORDER = ["z", "a", "error", "slope", "delta", "dW"];

/** Whether an answer agrees: within 1 %, or right in the two or more digits that were given.
 * @param {string} text @param {number} value */
export function agrees(text, value) {
  const lambda = /^([−-]?\d*) ?λ(?:\/(\d+))?$/.exec(text.trim()); // so are 3λ and −λ/2
  if (lambda) {
    const times = lambda[1].replace("−", "-").replace(/^-?$/, "$&1");
    const exact = (Number(times) * Math.log(3)) / Number(lambda[2] ?? 1);
    return Math.abs(exact - value) <= 1e-9 * Math.abs(value);
  }
  const plain = text.trim().replace(/[−–]/g, "-").replace(",", ".");
  const parts = /^(-?[\d.]+)\/([\d.]+)$/.exec(plain); // a fraction is an answer too
  const answer = parts ? Number(parts[1]) / Number(parts[2]) : Number(plain);
  if (plain === "" || !Number.isFinite(answer)) return false;
  if (Math.abs(answer - value) <= 0.01 * Math.abs(value) + 1e-12) return true;
  const digits = plain
    .replace(/e.*$/i, "")
    .replace(/^-?0*\.?0*/, "")
    .replace(".", "").length;
  return digits >= 2 && Number(value.toPrecision(digits)) === answer;
}

/** @param {HTMLElement} root @param {import("./store.js").Store} store */
export function unitPanel(root, store) {
  const { run } = store;
  const box = part(root, "unit");
  const title = el("h2");
  const list = el("div", { class: "lines" });
  const which = el("span", { class: "buttons", role: "group", "aria-label": "Which sum" });
  const table = el("div", { class: "terms", tabindex: 0, "aria-label": "The sum, term by term" });
  const score = el("p", { class: "score", "aria-live": "polite" });
  box.append(
    title,
    score,
    list,
    el("div", { class: "sum" }, el("h3", {}, "Term by term"), which),
    table,
  );
  /** @type {"z" | "error"} */
  let sum = "z";
  let [solved, all] = [0, false]; // lines of the exercise that are done; all terms are listed
  const showSum = choice(
    which,
    [
      ["z", "the sum z"],
      ["error", "the error"],
    ],
    (value) => {
      sum = /** @type {"z" | "error"} */ (value);
      drawTerms();
    },
  );
  showSum(sum);

  function draw() {
    const { layer, unit } = store.unit;
    const { state } = store;
    const pencil = pencilOf(state.layers, store.pass);
    const lines = unitLines(store.notation, state.layers, store.pass, run.s, layer, unit, pencil);
    const name =
      layer === run.sizes.length - 1 && run.data.classes
        ? `, the output for “${run.classes[unit]}”`
        : "";
    title.replaceChildren(
      `Layer ${layer} (${run.sizes[layer - 1]}→${run.sizes[layer]}), unit ${unit + 1}${name}`,
      el("small", {}, state.hovered ? "click to keep it" : "kept"),
    );
    const step = state.step === null ? null : store.steps[state.step];
    const until = step && step.layer === layer ? ORDER.indexOf(step.kind) : Infinity;
    if (step && step.layer === layer && (step.kind === "z" || step.kind === "error"))
      sum = step.kind;
    const shown = state.exercise ? lines.slice(0, solved + 1) : lines.filter((_, i) => i <= until);
    score.hidden = !state.exercise;
    if (state.exercise)
      score.textContent =
        solved >= lines.length
          ? "All solved. Choose another unit, or another image."
          : `Fill in what is missing; two digits are enough. ${solved} of ${lines.length} done.`;
    list.replaceChildren(
      ...shown.map((line, i) =>
        state.exercise && i === solved ? asked(line) : told(line, step?.kind === line.key),
      ),
    );
  }

  /** @param {Line} line @param {boolean} now */
  function told(line, now) {
    return el(
      "div",
      { class: now ? "line now" : "line", "data-key": line.key },
      el("span", { class: "told" }, line.told),
      el("code", { class: "formula" }, line.formula),
      el("code", { class: "filled" }, `${line.left} `, el("output", {}, line.shown)),
    );
  }

  /** @param {Line} line */
  function asked(line) {
    const input = el("input", {
      type: "text",
      inputmode: "text",
      autocomplete: "off",
      size: 9,
      "aria-label": `${line.left} =`,
    });
    const verdict = el("span", { class: "verdict", role: "status" });
    const check = () => {
      const right = agrees(input.value, line.value);
      verdict.textContent = right ? "right" : "not yet";
      verdict.className = `verdict ${right ? "right" : "wrong"}`;
      if (right) next();
    };
    input.addEventListener("keydown", (event) => event.key === "Enter" && check());
    return el(
      "div",
      { class: "line now", "data-key": line.key },
      el("span", { class: "told" }, line.told),
      el("code", { class: "formula" }, line.formula),
      el(
        "span",
        { class: "filled" },
        el("code", {}, `${line.left} = `),
        input,
        " ",
        el("button", { type: "button", onclick: check }, "Check"),
        " ",
        el("button", { type: "button", onclick: next }, "Show"),
        " ",
        verdict,
      ),
    );
  }

  function next() {
    solved++;
    draw();
    list.querySelector("input")?.focus();
  }

  function drawTerms() {
    showSum(sum);
    const { layer, unit } = store.unit;
    const { layers, exercise } = store.state;
    const found = terms(store.notation, layers, store.pass, layer, unit, sum);
    if (found.length === 0) {
      table.replaceChildren(
        el(
          "p",
          {},
          sum === "error" ? "At the output the error is a − y: no sum." : "Nothing comes in.",
        ),
      );
      return;
    }
    const shown = all ? found : found.slice(0, ROWS);
    let running = 0;
    const value = (/** @type {number} */ v) => (run.example ? exactly(v) : number(v));
    const body = shown.map(({ what, weight, times, term }) => {
      running += term;
      const [first, second] = sum === "z" ? [weight, times] : [times, weight];
      return el(
        "tr",
        {},
        ...[what, value(first), value(second), number(term), number(running)].map((text, i) =>
          el(
            i ? "td" : "th",
            { scope: i ? null : "row", class: i > 2 ? "result" : null },
            exercise && i > 2 ? "" : text,
          ),
        ),
      );
    });
    const [first, second] = sum === "z" ? ["weight", "what comes in"] : ["δ", "weight"];
    table.replaceChildren(
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ...["term", first, second, "product", "sum so far"].map((text) =>
              el("th", { scope: "col" }, text),
            ),
          ),
        ),
        el("tbody", {}, ...body),
      ),
    );
    const more = found.length - shown.length;
    if (more)
      table.append(
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              all = true;
              drawTerms();
            },
          },
          `${more} smaller terms: show all`,
        ),
      );
  }

  store.on(["pinned", "hovered", "pass", "exercise"], () => {
    if (!store.state.hovered) solved = 0;
  });
  store.on(["pass", "pinned", "hovered", "notation", "exercise", "step"], draw);
  store.on(["pass", "pinned", "notation", "exercise", "step"], () => {
    all = false;
    drawTerms();
  });
}
