"""The page in a real browser, at desktop and phone width, light and dark."""

import shutil
from pathlib import Path

import pytest

from recsys.report.report import report

pytestmark = pytest.mark.slow

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What sticks out of the page at the right, unless it scrolls inside an element of its own.
OVERFLOW = """() => [...document.querySelectorAll("body *")].filter(e =>
  e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 &&
  !e.closest(".scroll") && !e.closest("svg")).map(e => e.outerHTML.slice(0, 120))"""
DRAWN = """() => [...document.querySelectorAll(".grid > svg")].map(e => {
  const box = e.getBoundingClientRect(); return [box.width, box.height]})"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll(".grid > svg text")].map(e =>
  e.getBoundingClientRect().height))"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as opened:
        launched = opened.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page_file(tables, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    report(tables, out, segments=["age"], count=100)
    return out


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_screen(browser, page_file, tmp_path, width, theme):
    from PIL import Image

    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(page_file.as_uri())
    assert asked == [page_file.as_uri()]
    assert faults == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OVERFLOW) == []
    sizes = page.evaluate(DRAWN)
    assert len(sizes) > 15
    # A drawing fills a phone, and shares a desktop with others.
    assert all(300 < w <= (390 if width == 390 else 640) and h > 60 for w, h in sizes)
    assert page.evaluate(SMALLEST) >= 9
    for link in page.query_selector_all("nav a"):
        assert page.query_selector(link.get_attribute("href")) is not None
    shot = tmp_path / "shot.png"
    page.screenshot(path=shot, full_page=True)
    image = Image.open(shot).convert("RGB")
    corner = sum(image.getpixel((2, 2)))
    assert corner > 600 if theme == "light" else corner < 150
    # The first drawing is drawn: its series' colour is there.
    box = page.query_selector(".grid > svg").bounding_box()
    area = image.crop(
        [int(v) for v in (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])]
    )
    series = (0x3B, 0x6E, 0xA8) if theme == "light" else (0x6E, 0xA3, 0xDD)
    assert any(color == series for _, color in area.getcolors(1 << 20))
    page.close()
