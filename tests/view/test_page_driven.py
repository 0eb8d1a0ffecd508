"""A person's hands on the page: clicks, keys, drawings, switches; and text that means harm."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from manual_bp.view import bundle
from tests.view import pages

pytestmark = pytest.mark.browser

HARM = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"


def part(page: Any, name: str) -> Any:
    return page.locator(f'.look:not(.second) [data-part="{name}"]')


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def thumbs(page: Any) -> list[str]:
    """What a screen reader says of the images that are shown."""
    buttons = part(page, "gallery").locator("button")
    return list(buttons.evaluate_all("(all) => all.map((b) => b.getAttribute('aria-label'))"))


def said(page: Any) -> str:
    return str(part(page, "story").inner_text())


def test_filters_show_what_they_say(open_page: Any) -> None:
    data = pages.run()
    page = open_page(data)
    done = page.evaluate(
        "[...Array(look.images).keys()].map((image) => look.pass({ epoch: 2, image }))"
        ".map(({ cost, layers }) => ({ cost, a: layers[1].a }))"
    )
    last = [d["a"] for d in done]
    wrong = [i for i, a in enumerate(last) if a.index(max(a)) != data["labels"][i]]
    assert 0 < len(wrong) < pages.IMAGES
    assert len(thumbs(page)) == pages.IMAGES
    page.get_by_role("button", name="Wrong", exact=True).click()
    shown = thumbs(page)
    assert [int(label.split()[1].rstrip(":")) for label in shown] == wrong
    assert all(label.endswith(", wrong") for label in shown)
    page.get_by_role("button", name="Worst", exact=True).click()
    costs = [done[int(label.split()[1].rstrip(":"))]["cost"] for label in thumbs(page)]
    assert len(costs) == pages.IMAGES
    assert costs == sorted(costs, reverse=True)
    part(page, "class").select_option("3")
    assert sorted(label.split()[1] for label in thumbs(page)) == ["13:", "3:"]


def test_a_click_on_an_image_shows_its_numbers(open_page: Any) -> None:
    page = open_page(pages.run())
    part(page, "gallery").locator("button").nth(7).click()
    expected = page.evaluate("look.pass({ epoch: 2, image: 7 }).layers[1].a")
    told = part(page, "outputs").get_attribute("aria-label")
    found = [float(text.replace("−", "-")) for text in re.findall(r"a (\S+), y", told)]
    assert found == pytest.approx(expected, rel=1e-3)
    assert part(page, "target").input_value() == "7"


def test_a_drawing_is_centred_and_scaled_as_mnist_is(open_page: Any) -> None:
    page = open_page(pages.run())
    box = part(page, "pad").bounding_box()
    page.mouse.move(box["x"] + 15, box["y"] + 12)  # a stroke in a corner
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 40, steps=4)
    page.mouse.move(box["x"] + 25, box["y"] + 60, steps=4)
    page.mouse.up()
    assert "The network says" in part(page, "verdict").inner_text()
    assert part(page, "gallery").locator('[aria-pressed="true"]').count() == 0
    code = bundle._script("centre")
    ink = [[1.0 if 3 <= r < 43 and 5 <= c < 15 else 0.0 for c in range(56)] for r in range(56)]
    flat = [v for row in ink for v in row]
    values = page.evaluate(
        f"(v) => {{ {code}; return [...$centre.centred("
        "{ values: Float64Array.from(v), width: 56, height: 56 }, 28, 28)]; }",
        flat,
    )
    image = torch.tensor(values, dtype=torch.float32).reshape(28, 28)
    rows, columns = image.nonzero().T
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (20, 5)
    middle = (image.sum(1) @ (torch.arange(28.0) + 0.5) / image.sum()).item()
    across = (image.sum(0) @ (torch.arange(28.0) + 0.5) / image.sum()).item()
    assert max(abs(middle - 14), abs(across - 14)) <= 0.5
    assert image.max() == 1


@pytest.mark.parametrize("paper", [0, 255])
def test_ones_own_pictures_are_shown_and_drawn_as_they_are(open_page: Any, paper: int) -> None:
    """Black on white stays black on white; a drawing has the same paper, and is not centred."""
    images = torch.full((pages.IMAGES, 784), paper, dtype=torch.uint8)
    images[:, 400] = 255 - paper
    page = open_page(pages.run(images=base64.b64encode(images.numpy()).decode(), as_taken=True))

    def shown(place: str) -> list[int]:
        return page.evaluate(
            "(s) => { const c = document.querySelector(s), copy = document.createElement('canvas');"
            "[copy.width, copy.height] = [c.width, c.height];"
            "const pen = copy.getContext('2d', { willReadFrequently: true });"
            "pen.drawImage(c, 0, 0);"
            "const { data } = pen.getImageData(0, 0, c.width, c.height);"
            "return [...data].filter((_, i) => i % 4 === 0); }",
            place,
        )

    for place in ("[data-part=gallery] canvas", "[data-part=pad]"):
        assert shown(place)[:2] == [paper, paper]
        assert shown(place)[400] == 255 - paper
    page.get_by_role("button", name="New drawing").click()
    box = part(page, "pad").bounding_box()
    page.mouse.move(box["x"] + 15, box["y"] + 12)
    page.mouse.down()
    page.mouse.move(box["x"] + 25, box["y"] + 60, steps=4)
    page.mouse.up()
    drawn = torch.tensor(shown("[data-part=pad]")).view(168, 168)
    assert drawn[-1, -1] == paper
    assert int((drawn == 255 - paper).nonzero().max()) < 100  # where it was drawn


def test_the_target_of_a_drawing_is_chosen(open_page: Any) -> None:
    page = open_page(pages.run())
    page.get_by_role("button", name="New drawing").click()
    part(page, "target").select_option("6")
    assert "the output for “6”" in part(page, "unit").locator("h2").inner_text()
    assert re.search(r"6: a \S+, y 1", part(page, "outputs").get_attribute("aria-label"))


def test_keys_step_forwards_then_backwards_and_the_update_lowers_the_cost(open_page: Any) -> None:
    page = open_page(pages.run())
    told = []
    for _ in range(15):
        press(page, "ArrowRight")
        told.append(said(page))
    beginnings = [re.sub(r"^\d+/15 · ", "", text).partition(".")[0] for text in told]
    one, two = "layer 1 (784→30)", "layer 2 (30→10)"
    assert beginnings == ["input", *[one] * 2, *[two] * 2, "cost", *[two] * 4, *[one] * 4, "update"]
    assert "∂J/∂a⁽²⁾ = δ⁽³⁾ Θ⁽²⁾" in told[10]

    def costs() -> list[float]:
        return [float(c) for c in said(page).rpartition("C ")[2].strip().split(" → ")]

    before, after = costs()
    assert before == pytest.approx(
        page.evaluate(
            "look.pass({ epoch: 2, image: [...document.querySelectorAll("
            "'[data-part=gallery] button')].findIndex((b) => b.ariaPressed === 'true') }).cost"
        ),
        rel=1e-3,
    )
    assert after < before
    press(page, "ArrowRight")  # again
    assert costs()[:2] == [before, after]
    assert costs()[2] < after
    page.get_by_role("button", name="Reset").click()
    assert "update" not in said(page)
    press(page, "ArrowLeft", "Escape")
    assert said(page).startswith("Left strip")


def test_a_later_step_hides_nothing_and_an_earlier_one_shows_no_more(open_page: Any) -> None:
    page = open_page(pages.run())
    bars = part(page, "staircase").locator("tbody td.value:not(.ratio)")
    assert all(bars.all_inner_texts())
    press(page, *["ArrowRight"] * 9)  # to δ of layer 2
    assert [bool(text) for text in bars.all_inner_texts()] == [True, False]
    assert part(page, "unit").locator(".line").last.get_attribute("data-key") == "delta"


def test_play_ends_at_the_update(open_page: Any) -> None:
    page = open_page(pages.example("one-neuron"), reduced_motion="reduce")
    page.clock.install()
    page.get_by_role("button", name="Step through").click()
    page.clock.run_for(60_000)
    assert said(page).startswith("15/15 · update")
    assert part(page, "play").inner_text() == "Step through"


def test_the_slider_and_its_keys_choose_the_epoch(open_page: Any) -> None:
    page = open_page(pages.run())
    assert part(page, "epoch").inner_text() == "weights after epoch 2"
    part(page, "slider").fill("0")
    assert part(page, "epoch").inner_text() == "epoch 0: nothing learned yet"
    part(page, "net").focus()
    press(page, "]")
    assert part(page, "slider").input_value() == "1"
    assert part(page, "staircase").locator(".bar b").count() == 2  # the epoch's means


def test_a_unit_is_pinned_by_click_and_told_term_by_term(open_page: Any) -> None:
    page = open_page(pages.run())
    canvas = part(page, "net").locator("canvas")
    box = canvas.bounding_box()
    part(page, "net").focus()
    press(page, "PageUp")
    title = part(page, "unit").locator("h2")
    chosen = title.inner_text()
    assert chosen.startswith("Layer 1 (784→30)")
    middle = page.evaluate("document.querySelector('.head:nth-of-type(2)').style.left")
    x = box["x"] + float(middle[:-2]) - 8
    page.mouse.move(x, box["y"] + box["height"] / 2)
    assert "σ′ = " in page.locator(".tip").inner_text()
    assert "click to keep it" in title.inner_text()
    page.mouse.click(x, box["y"] + box["height"] / 2)
    page.mouse.move(5, 5)
    assert title.inner_text() != chosen
    unit = int(re.search(r"unit (\d+)", title.inner_text())[1]) - 1
    rows = part(page, "unit").locator("tbody tr")
    assert rows.count() == 40
    part(page, "unit").get_by_role("button", name="show all").click()
    text = rows.last.locator("td").last.inner_text()
    image = page.evaluate(
        "[...document.querySelectorAll('[data-part=gallery] button')]"
        ".findIndex((b) => b.ariaPressed === 'true')"
    )
    z = page.evaluate("([i, u]) => look.pass({ epoch: 2, image: i }).layers[0].z[u]", [image, unit])
    assert float(text.replace("−", "-")) == pytest.approx(z, rel=1e-3)


def test_the_notation_changes_every_formula(open_page: Any) -> None:
    page = open_page(pages.run())
    notation = part(page, "notation").locator("button")
    first = part(page, "unit").locator(".formula").first
    seen = []
    for button in notation.all():
        button.click()
        seen.append(first.inner_text())
    assert seen[0].startswith("z⁽³⁾ = a⁽²⁾ (Θ⁽²⁾)ᵀ")
    assert seen[1].startswith("s_j = Σ_{i ∈ ins(j)}")
    assert seen[2].startswith("z² = W² a¹")


def test_the_exercise_hides_results_and_checks_answers(open_page: Any) -> None:
    page = open_page(pages.example("two-two-two"))
    part(page, "exercise").click()
    shown = page.locator("main").inner_text()
    assert "?" in shown
    assert "3/64" not in shown
    lines = part(page, "unit").locator(".line")
    assert lines.count() == 1
    box = lines.locator("input")
    box.fill("7")
    press(page, "Enter")
    assert lines.locator(".verdict").inner_text() == "not yet"
    for answer in ("λ", "3/4", "−0.25", ".19", "-0,047"):  # z, a, error, slope, δ
        lines.last.locator("input").fill(answer)
        press(page, "Enter")
    assert lines.count() == 6
    lines.last.get_by_role("button", name="Show").click()
    assert "All solved" in part(page, "unit").locator(".score").inner_text()
    part(page, "exercise").click()
    assert "?" not in page.locator("main").inner_text()


def test_in_the_exercise_no_number_of_a_run_is_to_be_seen(open_page: Any) -> None:
    page = open_page(pages.run())
    part(page, "exercise").click()
    for place in (".foot", ".output .value", "[data-part=staircase] .value", "td.result"):
        texts = page.locator(place).all()
        assert texts
        assert not any(t.is_visible() and t.inner_text().strip() for t in texts), place
    press(page, *["ArrowRight"] * 6)
    assert "C =" not in said(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_the_colours_of_the_machine_and_changes_them(
    open_page: Any, scheme: str
) -> None:
    page = open_page(pages.example("one-neuron"), color_scheme=scheme)
    look = page.locator(".look")
    assert look.get_attribute("data-theme") == scheme
    part(page, "theme").click()
    assert look.get_attribute("data-theme") == {"light": "dark", "dark": "light"}[scheme]


def test_two_runs_stand_side_by_side_and_share_the_image(open_page: Any, tmp_path: Path) -> None:
    page = open_page(pages.run())
    other = tmp_path / "other.html"
    other.write_text(bundle.page(pages.run((30,) * 6, name="deep")), encoding="utf-8")
    page.locator('input[type="file"]').set_input_files(other)
    second = page.locator(".look.second")
    second.wait_for()
    part(page, "gallery").locator("button").nth(5).click()
    assert second.locator('[data-part="gallery"] [aria-pressed="true"]').count() == 1
    assert second.locator('[data-part="target"]').input_value() == "5"
    assert "deep" in second.locator("header").inner_text()
    second.get_by_role("button", name="Close").click()
    assert page.locator(".look").count() == 1
    other.write_text("<p>nothing here", encoding="utf-8")
    page.locator('input[type="file"]').set_input_files(other)
    page.get_by_role("alert").wait_for()
    assert "no look.html" in page.get_by_role("alert").inner_text()


def test_text_that_means_harm_is_text(open_page: Any, tmp_path: Path) -> None:
    data = pages.run(
        name=HARM,
        classes=[f"{HARM}{i}" for i in range(10)],
        trouble=[{"epoch": 1, "text": HARM}, {"epoch": None, "text": "\u2028"}],
    )
    page = open_page(data)
    assert HARM in part(page, "name").inner_text()
    assert HARM in part(page, "trouble").inner_text()
    part(page, "gallery").locator("button").nth(2).click()
    other = tmp_path / "other.html"
    other.write_text(bundle.page(data), encoding="utf-8")
    page.locator('input[type="file"]').set_input_files(other)
    page.locator(".look.second").wait_for()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert bundle.data_of(bundle.page(data)) is not None


def test_the_policy_stops_a_script_that_is_not_the_pages(open_page: Any) -> None:
    page = open_page(pages.example("one-neuron"))
    found = page.evaluate(
        "new Promise((done) => { document.addEventListener('securitypolicyviolation',"
        " (e) => done(e.effectiveDirective)); const s = document.createElement('script');"
        " s.textContent = 'globalThis.ran = 1'; document.body.append(s); })"
    )
    assert found == "script-src-elem"
    assert page.evaluate("globalThis.ran") is None
    open_page.expected.append("console: Executing inline script violates")


@pytest.mark.parametrize("make", [pages.run, lambda: pages.example("vector-form")])
def test_it_fits_a_phone_and_tells_a_screen_reader_everything(open_page: Any, make: Any) -> None:
    page = open_page(make(), viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, select, input, [role], [tabindex]")].filter((e) =>
          !(e.ariaLabel || e.textContent.trim()
            || e.labels?.[0]?.textContent.trim() || e.closest("[hidden]")
            || ["note", "status"].includes(e.getAttribute("role"))))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_background(open_page: Any, theme: str) -> None:
    """WCAG 2 AA: 4.5 to 1 for text, 3 to 1 for the colours of data."""
    page = open_page(pages.example("one-neuron"), color_scheme=theme)
    texts, grounds = ["ink", "faint", "accent", "good", "bad"], ["paper", "panel", "soft"]
    data = ["cell", "amount", "minus", "plus"]
    names = [*texts, *grounds, *data, "warn", "warn-ink"]
    code = "(names) => names.map((n) => getComputedStyle(document.querySelector('.look'))"
    found = page.evaluate(f"{code}.getPropertyValue('--' + n).trim())", names)
    colour = dict(zip(names, found, strict=True))

    def light(name: str) -> float:
        parts = [int(colour[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)

    for text in texts:
        assert min(contrast(text, ground) for ground in grounds) >= 4.5, text
    assert contrast("warn-ink", "warn") >= 4.5
    assert min(contrast(name, "cell") for name in data[1:]) >= 3


def test_a_linear_output_and_another_cost_are_told(open_page: Any) -> None:
    page = open_page(pages.run(output="linear", cost="mean"))
    assert "trained with the cost mean" in part(page, "name").inner_text()
    assert "a⁽³⁾ = z⁽³⁾" in part(page, "unit").inner_text()


def test_a_snapshot_of_another_size_gives_one_line(browser: Any, tmp_path: Path) -> None:
    data = pages.run()
    data["weights"][-1] = base64.b64encode(bytes(40)).decode()
    path = tmp_path / "look.html"
    path.write_text(bundle.page(data), encoding="utf-8")
    page = browser.new_page(offline=True)
    try:
        page.goto(path.as_uri())
        line = page.get_by_role("alert").inner_text()
    finally:
        page.close()
    assert "cannot be shown: snapshot of epoch 2" in line
