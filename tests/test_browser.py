"""Every page of the built book in a real browser: at two widths, each light and dark, seen and read aloud; the search.

`make test` builds the book and then runs these; without a built book, or without a browser, they are skipped.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urldefrag

import pytest
from samsbook import browser, check_html, pdf
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


def read(chromium, address, width, mode):
    """A loaded page, and what goes wrong while it loads and later."""
    window, start = chromium
    context = window.new_context(viewport={"width": width, "height": 900}, color_scheme=mode)
    page, wrong = context.new_page(), []
    page.on("request", lambda request: request.url.startswith((start, "data:", "blob:")) or wrong.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.goto(f"{start}{address}", wait_until="load")
    page.wait_for_timeout(100)
    return page, wrong


def obstacles(page, context=None, **options):
    """What axe finds serious or critical, as rule and place."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"preload": False, "resultTypes": ["violations"]} | options  # no sheet is fetched anew
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]


# Contrast takes axe a millisecond a piece of text, and pages have thousands, of a few dozen looks: of the pieces of one
# size, weight, colour and ground, and for links of one colour around, a single one is marked.
MARK_LOOKS = """() => {
  const ground = (element) => {
    const under = [];
    for (; element; element = element.parentElement) {
      const style = getComputedStyle(element);
      under.push(style.opacity, style.backgroundImage, style.backgroundColor);
      if (style.backgroundColor.startsWith("rgb(")) break;
    }
    return under;
  };
  const seen = new Set();
  for (const element of document.body.querySelectorAll("*")) {
    if (![...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
    if (!element.checkVisibility() || element.closest("[aria-hidden=true]")) continue;
    const style = getComputedStyle(element);
    const look = [style.color, style.fontSize, style.fontWeight, style.textDecorationLine, ...ground(element)];
    const key = [...look, element.tagName === "A" && getComputedStyle(element.parentElement).color].join();
    if (!seen.has(key)) element.dataset.look = seen.add(key).size;
  }
}"""


def faint(page, mode):
    """What is hard to see after a page was switched to the other colours, as somebody's evening may do."""
    page.add_style_tag(content="* { transition: none !important }")
    page.emulate_media(color_scheme=mode)
    page.wait_for_function(f"document.documentElement.dataset.theme === '{mode}'")
    page.evaluate(MARK_LOOKS)
    return obstacles(page, {"include": ["[data-look]"]}, runOnly=["color-contrast", "link-in-text-block"])


@pytest.mark.parametrize(
    ("width", "modes"), [(1280, ("light", "dark")), (390, ("dark", "light"))], ids=["desk", "phone"]
)
@pytest.mark.parametrize("name", PAGES or ["none"])
def test_a_page_is_sound_for_eyes_hands_and_ears(chromium, name, width, modes):
    """Nothing foreign is asked for, nothing goes wrong, nothing scrolls sideways, and a screen reader meets no serious
    obstacle; one heading of the first level and none that skips a level; a title, a description and pictures described;
    at the desk no line of code is cut; and all is seen in the other colours too."""
    page, wrong = read(chromium, f"{name}.html", width, modes[0])
    try:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not obstacles(page)
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
        assert not faint(page, modes[1])
        assert not wrong
    finally:
        page.context.close()


def leads_somewhere(address):
    """Whether a result's address is a page of the site with that anchor."""
    place, anchor = urldefrag(address)
    path = SITE / unquote(place)
    return path.is_file() and (not anchor or unquote(anchor) in check_html.Page(path.read_text(encoding="utf-8")).ids)


@pytest.mark.parametrize(
    ("word", "width", "modes"), [("mask", 1280, ("light", "dark")), ("bound", 390, ("dark", "light"))]
)
def test_results_of_the_search_can_be_read_and_lead_to_pages(chromium, word, width, modes):
    """Formulas stand once in what is quoted under a result, and nothing that belongs to a page rather than to its text;
    words are whole, and the one that was looked for is among them."""
    page, wrong = read(chromium, f"search.html?q={word}", width, modes[0])
    try:
        page.wait_for_function("document.querySelector('.search-summary')?.innerText.includes('finished')")
        page.wait_for_function("[...document.querySelectorAll('.search li')].every(item => item.children.length > 1)")
        results = page.eval_on_selector_all(".search li > a", "all => all.map(a => a.getAttribute('href'))")
        quoted = page.eval_on_selector_all(".search .context", "all => all.map(words => words.textContent)")
        assert len(quoted) > 10 and not [address for address in results if not leads_somewhere(address)]
        for text in quoted:
            assert word in text.lower() and 20 < len(text) < 250
            assert not re.search(r"([^\s\d.=*-]+)\1\1|([^\s\d.=*-]{3,})\2|#$|cell source|\.\.\.$", text), text
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not obstacles(page) and not faint(page, modes[1])
        assert not wrong
    finally:
        page.context.close()


FORMULA = (
    '<span class="math"><span class="katex"><span class="katex-mathml"><math><semantics><mrow><mn>1</mn><mi>/</mi>'
    "<msub><mi>n</mi><mi>t</mi></msub></mrow><annotation>1/n_t</annotation></semantics></math></span>"
    '<span class="katex-html" aria-hidden="true">1/nt</span></span></span>'
)
QUOTED = f"""<main role="main"><div>Contents</div><article><h1>Title<a class="headerlink">#</a></h1>
<div class="cell"><details><summary>Show code</summary><div class="highlight"><pre>mask = 1</pre></div></details></div>
<p>A weight {FORMULA}, and so on</p><dl><dt id="term-mask">mask</dt><dt id="term-m">M</dt><dd>The axes.</dd></dl>
</article></main>"""


def test_what_the_search_quotes_is_the_text_of_a_page_before_its_code(chromium):
    page, _ = read(chromium, "search.html", 1280, "light")
    try:
        told = "([page, anchor]) => Search.htmlToText(page, anchor)"
        whole = "Title A weight 1/n_t, and so on mask M The axes. mask = 1"
        assert page.evaluate(told, [QUOTED, ""]) == whole
        assert page.evaluate(told, [QUOTED, "#term-mask"]) == "mask The axes."
    finally:
        page.context.close()
