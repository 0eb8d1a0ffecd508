// look.html: one run, whose data stands in the file.

import { listen } from "./beside.js";
import { el } from "./dom.js";
import { numbersOf, view } from "./main.js";

export function start() {
  const page = el("div", { class: "page" });
  const root = el("div");
  page.append(root);
  document.body.append(page);
  const data = JSON.parse(document.getElementById("data")?.textContent ?? "");
  try {
    const store = view(root, data);
    document.title = `${store.run.data.name} · ${document.title}`;
    listen(page, root, () => store);
    Object.assign(globalThis, { look: numbersOf(store.run) });
    globalThis.performance.mark("drawn");
  } catch (error) {
    root.replaceChildren(
      el(
        "p",
        { role: "alert" },
        `This page cannot be shown: ${error instanceof Error ? error.message : error}`,
      ),
    );
    throw error;
  }
}
