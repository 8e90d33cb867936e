"""The page of a run in a real browser: it draws, answers, filters, prints, and asks nothing of any network."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.made_up_report import AB, HOSTILE, A, curve_frame, made_up_inputs, mouse_frame, orr_frame, patient_frames
from vtrial.report import build_report

pytestmark = pytest.mark.browser
#: a machine that is busy with other things draws slowly
PATIENCE_MS = 120_000.0
LAPTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Debian's chromium, driven by Playwright, which brings none of its own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install vtrial[dev]")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip(f"needs a chromium (apt install chromium): none of {', '.join(names)} is on the PATH")
    # chromium's own sandbox refuses to work for root
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield browser
        browser.close()


class Opened:
    """A page that is open, with all that it said and asked for."""

    def __init__(self, browser, file: Path, viewport: dict[str, int]):
        self.context = browser.new_context(viewport=viewport)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.url = file.as_uri()
        self.page.goto(self.url)

    def through(self) -> None:
        """Come by every figure, so that all are drawn; they are drawn when they come near."""
        for name in self.page.evaluate(
            "[...document.querySelectorAll('[data-figure]')].map(one => one.dataset.figure)"
        ):
            self.page.locator(f'[data-figure="{name}"]').scroll_into_view_if_needed()
            self.expect(f'.js-plotly-plot[data-figure="{name}"]').to_have_count(1)

    def expect(self, selector: str):
        """Playwright's patient assertions on an element; the page's policy allows none that it would evaluate."""
        from playwright.sync_api import expect

        expect.set_options(timeout=PATIENCE_MS)
        return expect(self.page.locator(selector))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(build_report(made_up_inputs()), encoding="utf-8")
    return file


@pytest.fixture
def laptop(browser, file) -> Iterator[Opened]:
    opened = Opened(browser, file, LAPTOP)
    yield opened
    opened.context.close()


def test_every_figure_is_drawn_without_a_word_or_a_request(laptop) -> None:
    drawn_first = laptop.page.locator(".js-plotly-plot").count()
    assert 0 < drawn_first < laptop.page.locator("[data-figure]").count()  # the others wait until they come near
    laptop.through()
    assert laptop.page.locator(".js-plotly-plot .main-svg").count() > drawn_first
    assert laptop.said == []
    assert laptop.asked == [laptop.url]


def test_a_figure_answers_to_hover(laptop) -> None:
    forest = laptop.page.locator('[data-figure="orr"]')
    forest.scroll_into_view_if_needed()
    point = forest.locator(".points path.point").first
    point.wait_for()
    box = point.bounding_box()
    laptop.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = forest.locator(".hovertext")
    label.wait_for()
    assert "predicted 10.0 %" in label.text_content() and A in label.text_content()


def panels(page) -> list[tuple[str, str]]:
    """Model with tumour type, and arm, of the panels that are shown."""
    heads = page.locator("#curve-panels h4").all()
    return [(one.locator(".sub").inner_text(), one.evaluate("node => node.firstChild.textContent")) for one in heads]


def test_curves_are_found_by_model_type_and_arm(laptop) -> None:
    page = laptop.page
    page.locator("#curve-panels").scroll_into_view_if_needed()
    page.locator("#curve-panels .js-plotly-plot").first.wait_for()
    count = laptop.expect("#curve-count")
    count.to_have_text("1 to 12 of 48 panels, 12 PDX models")
    assert [arm for _, arm in panels(page)[:4]] == ["untreated", "alpha", "alpha + beta", "beta"]
    page.locator("#curve-on").click()
    count.to_have_text("13 to 24 of 48 panels, 12 PDX models")
    page.locator("#curve-search").fill("x-1003")
    count.to_have_text("1 to 4 of 4 panels, 1 PDX models")
    assert {model for model, _ in panels(page)} == {"X-1003, CM"}
    assert page.locator("#curve-on").is_disabled() and page.locator("#curve-back").is_disabled()
    page.locator("#curve-search").fill("brca ALPHA + beta")
    count.to_have_text("1 to 6 of 6 panels, 6 PDX models")
    assert {arm for _, arm in panels(page)} == {"alpha + beta"}
    page.locator("#curve-search").fill("no such model")
    count.to_have_text("nothing found")
    assert panels(page) == [] and laptop.said == []


def test_a_panel_draws_the_numbers_of_its_mice(laptop) -> None:
    page = laptop.page
    page.locator("#curve-panels").scroll_into_view_if_needed()
    page.locator("#curve-search").fill("X-1000 alpha +")
    laptop.expect("#curve-count").to_have_text("1 to 1 of 1 panels, 1 PDX models")
    drawn = page.locator("#curve-panels .figure").evaluate("one => one.data.map(t => ({x: t.x, y: t.y}))")
    frame = curve_frame(num_models=12)
    own = frame[(frame["pdx_model"] == "X-1000") & (frame["arm"] == "alpha + beta")]
    seen = own[~own["censored"]]
    reference, band, median, points, below = drawn
    assert median["x"] == list(own["day"]) and median["y"] == pytest.approx(list(own["fitted_median"]), rel=5e-4)
    assert band["y"] == pytest.approx([*own["q95"], *own["q05"][::-1]], rel=5e-4)
    assert points["x"] == list(seen["day"]) and points["y"] == pytest.approx(list(seen["volume_mm3"]), rel=5e-4)
    assert below["x"] == list(own[own["censored"]]["day"])
    assert len(reference["x"]) == 19  # two untreated mice of nine days, and a gap


@pytest.mark.parametrize("button", ['[data-csv="orr_forest"]', "#curve-csv"])
def test_the_data_behind_a_figure_are_saved_without_a_request(laptop, button) -> None:
    page = laptop.page
    page.locator(button).scroll_into_view_if_needed()
    with page.expect_download() as waiting:
        page.locator(button).click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    if button == "#curve-csv":
        frame = curve_frame(num_models=12)
        assert waiting.value.suggested_filename == "curves.csv" and len(rows) == len(frame)
        assert np.sort([float(row["volume_mm3"]) for row in rows]) == pytest.approx(
            np.sort(frame["volume_mm3"]), rel=5e-4
        )
    else:
        assert [row["arm"] for row in rows][::2] == list(dict.fromkeys(orr_frame()["arm"]))
    assert not [url for url in laptop.asked if url.startswith(("http", "ws"))]


@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_the_page_never_scrolls_sideways(browser, file, viewport) -> None:
    opened = Opened(browser, file, viewport)
    opened.through()
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width == viewport["width"]
    # what is wider than the screen lies in a box that scrolls by itself, and no figure is wider than its place
    wide = opened.page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].filter(one => one.querySelector('.main-svg').clientWidth"
        " > one.parentElement.clientWidth + 1).map(one => one.dataset.figure)"
    )
    assert wide == [] and opened.said == []
    opened.context.close()


def test_names_are_text(browser, tmp_path) -> None:
    bars, lines = patient_frames(arms=(HOSTILE, A))
    frame = curve_frame().assign(mouse=HOSTILE, tumour_type=HOSTILE)
    frame["arm"] = frame["arm"].replace("alpha", HOSTILE)
    inputs = made_up_inputs(
        orr=orr_frame(combination=HOSTILE), mouse_response=mouse_frame().assign(arm=HOSTILE), curves=frame,
        waterfall=bars, spider=lines, notes=(HOSTILE,),
    )  # fmt: skip
    file = tmp_path / "hostile.html"
    file.write_text(build_report(inputs), encoding="utf-8")
    opened = Opened(browser, file, LAPTOP)
    opened.through()
    page = opened.page
    assert opened.said == [] and opened.asked == [opened.url]
    assert page.locator("#answer .arm-name", has_text=HOSTILE).count() == 1
    assert HOSTILE in [arm for _, arm in panels(page)]
    assert any(HOSTILE in text for text in page.locator('[data-figure="orr"] .annotation').all_text_contents())
    point = page.locator("#curve-panels .points path.point").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = page.locator("#curve-panels .hovertext")
    label.wait_for()
    assert "<script>alert" in label.text_content()
    opened.context.close()


def test_on_paper_every_figure_is_there_and_fits(browser, file) -> None:
    opened = Opened(browser, file, LAPTOP)
    opened.page.emulate_media(media="print")
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    opened.page.set_viewport_size({"width": 690, "height": 1000})  # A4 between margins of 14 mm, at 96 dots per inch
    found = opened.page.evaluate(
        "[...document.querySelectorAll('[data-figure], #curve-panels .figure')].map("
        "one => [one.dataset.figure || 'curve', one.querySelector('.main-svg')?.getBoundingClientRect().right ?? -1])"
    )
    assert len(found) > 30
    assert [name for name, right in found if not 0 < right <= 690] == []
    # each fits on a sheet with its caption, and no button is on paper
    tall = opened.page.evaluate(
        "[...document.querySelectorAll('[data-figure]')].filter(one => one.getBoundingClientRect().height > 890)"
        ".map(one => one.dataset.figure)"
    )
    assert tall == [] and opened.page.locator("button:visible").count() == 0
    assert not opened.page.locator("nav").is_visible() and not opened.page.locator("#curve-search").is_visible()
    pdf = opened.page.pdf(format="A4", print_background=True)
    assert pdf.startswith(b"%PDF") and opened.said == []
    opened.context.close()


def test_the_answer_is_first_and_says_what_beats_what(laptop) -> None:
    card = laptop.page.locator("#answer .card", has_text=AB)
    assert card.inner_text().split("\n\n")[:2] == [AB, "30 %"]
    assert "published 34/109 = 31.2 %" in card.inner_text()
    assert "97 %" in card.inner_text() and "above 99 %" in card.inner_text()
    assert card.bounding_box()["y"] < LAPTOP["height"]
