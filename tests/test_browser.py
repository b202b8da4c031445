"""Every page of the built book in a real browser: at two widths, light and dark, seen and read aloud.

`make test` builds the book and then runs these; without a built book, or without a browser, they are skipped.
"""

from __future__ import annotations

import pytest
from samsbook import browser, pdf
from test_layout import ROOT

SITE = ROOT / "_build" / "html"
PAGES = [name for name in pdf.pages(ROOT) if (SITE / f"{name}.html").is_file()] if SITE.is_dir() else []

pytestmark = [
    pytest.mark.skipif(not browser.find(), reason=f"there is no browser: none of {', '.join(browser.NAMES)}"),
    pytest.mark.skipif(not PAGES, reason="the book is not built: run `make book`"),
]


@pytest.fixture(scope="module")
def chromium():
    with browser.opened(SITE) as both:
        yield both


def read(chromium, name, width, mode):
    """A loaded page, and what went wrong while it loaded."""
    window, address = chromium
    context = window.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    page, wrong = context.new_page(), []
    page.on("request", lambda request: request.url.startswith((address, "data:", "blob:")) or wrong.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.goto(f"{address}{name}.html", wait_until="load")
    page.wait_for_timeout(100)
    return page, wrong


@pytest.mark.parametrize(("width", "mode"), [(1280, "light"), (390, "dark")], ids=["desk", "phone"])
@pytest.mark.parametrize("name", PAGES or ["none"])
def test_a_page_is_sound_for_eyes_hands_and_ears(chromium, name, width, mode):
    """Nothing foreign is asked for, nothing goes wrong, nothing scrolls sideways, and a screen reader meets no serious
    obstacle; one heading of the first level and none that skips a level; a title, a description and pictures described;
    at the desk no line of code is cut."""
    from axe_playwright_python.sync_playwright import Axe

    page, wrong = read(chromium, name, width, mode)
    try:
        assert not wrong
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
        told = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert not told
        levels = page.eval_on_selector_all(
            "article :is(h1, h2, h3, h4, h5, h6)", "all => all.map(h => Number(h.tagName[1]))"
        )
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), levels
        assert page.title() and len(page.get_attribute("meta[name=description]", "content")) > 20
        bare = "all => all.filter(picture => picture.alt.trim().length < 8).map(picture => picture.src)"
        assert not page.eval_on_selector_all("article img", bare)
        assert page.query_selector("article .stderr") is None, "what a chapter logs is not for its readers"
        assert page.eval_on_selector_all("meta[name=viewport]", "all => all.length") == 1
        cut = "all => all.filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.textContent)"
        assert width < 1000 or not page.eval_on_selector_all("article pre", cut)
    finally:
        page.context.close()
