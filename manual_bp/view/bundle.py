"""Join the page's modules into one file, as text: a look.html, or the tab's module.

The sources in `page/` are ES modules, checked by TypeScript (`page/jsconfig.json`). A browser does
not load modules from a disk, so each becomes a function that returns its exports, in the order of
the imports. No other tool is needed where the page is written.

The data of a page, format 1, are a dict:

    format, kind           1, and "run" or "example" (a network of the documents)
    name                   of the run; class names and trouble are shown as text, whatever they hold
    sizes, activations     [784, 128, 10], ["sigmoid", "sigmoid"]; the last may be "linear"
    cost, lr, batch, seed  as the run has them; a run's page shows C = ½ Σ (a − y)² in any case
    epochs_planned, finished, classes, image_shape
    images                 base64 of uint8, n × n_in; x = byte · pixel_scale
    labels                 n class numbers
    epochs                 [0, 1, 2, …], those whose weights are here
    weights                for each: base64 of little-endian float32, layer by layer W, row by row
                           (n_out × n_in), then b (n_out); an example has a list of numbers instead
    metrics                the rows of metrics.jsonl, a number that is not finite as None
    trouble                [{"epoch": 3 or None, "text": "layer 2 …"}]

An example also has x and y, and may have bias (False: no b in the weights), units (document 2's
names), notation (1, 2 or 3, the symbols to begin with) and title.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).parent / "page"
_OPENED = '<script type="application/json" id="data">'
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class)) (\w+)", re.MULTILINE)


def page(data: dict[str, Any]) -> str:
    """The whole look.html for the data of one run, or of one example.

    The browser runs no script and uses no style but the page's own, and sends nothing: the content
    security policy names both by their hashes and allows no address.
    """
    script, style = _script("start", "start();"), _read("style.css")
    # Inside a script element only these could end it, or a line: all are escapes in JSON.
    escapes = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
    told = json.dumps(data, ensure_ascii=False, allow_nan=False).translate(escapes)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src '{_hash(script)}'; style-src '{_hash(style)}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Backpropagation, seen</title>
<style>{style}</style>
<body>
<noscript>This page computes what it shows: switch JavaScript on.</noscript>
{_OPENED}{told}</script>
<script type="module">{script}</script>
</html>
"""


def data_of(html: str) -> str | None:
    """The data of a page that `page` wrote, as JSON; None where there are none, or damaged ones."""
    told = html.partition(_OPENED)[2].partition("</script>")[0]
    try:
        return told if isinstance(json.loads(told), dict) else None
    except ValueError:
        return None


def tab() -> str:
    """The module of TensorBoard's tab: `render()` builds the page in the tab's document.

    It asks `./runs` for the names of the runs, and `./run?name=…` for one run's data, as JSON.
    """
    styles = json.dumps(_read("style.css"))
    return f"{_script('tab')}export function render() {{ return tab({styles}); }}\n"


@cache
def _script(entry: str, last: str = "") -> str:
    """The module `entry` with all that it imports, as one script; `last` is its last line."""
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...] = ()) -> None:
        if name in above:
            raise ValueError(f"page: {' → '.join((*above, name))}: modules import in a circle")
        for _, imported in _IMPORT.findall(_read(f"{name}.js")):
            visit(imported, (*above, name))
        if name not in order:
            order.append(name)

    visit(entry)
    return f'"use strict";\n{"".join(map(_module, order))}const {{ {entry} }} = ${entry};\n{last}'


def _module(name: str) -> str:
    """One module as a function that is called at once and returns what the module exports."""
    text = _read(f"{name}.js")
    exported = [found for _, found in _EXPORT.findall(text)]
    text = _IMPORT.sub(lambda m: f"const {{{m[1].replace(' as ', ': ')}}} = ${m[2]};\n", text)
    text = _EXPORT.sub(r"\1 \2", text)
    if left := re.search(r"^(import|export)\b.*", text, re.MULTILINE):
        raise ValueError(f"page/{name}.js: {left[0]}: write import {{ … }} from, or export const …")
    return f"const ${name} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();\n"


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A text's name in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
