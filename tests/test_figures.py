"""The figures and tables of the built book as a browser shows them: text that can be read, nothing cut, and a sign
where there is more to the side. Without a built book, or without a browser, these are skipped."""

import re

import pytest
from samsbook import browser, pdf
from test_layout import ROOT

SITE = ROOT / "_build" / "html"
NAMES = pdf.pages(ROOT) if SITE.is_dir() else []
READ = {name: path.read_text() for name in NAMES if (path := SITE / f"{name}.html").is_file()}
DRAWN = [name for name, text in READ.items() if re.search(r'<img [^>]*\.svg"', text.partition("<article")[2])]
TABLES = [name for name, text in READ.items() if "<table" in text]
SMALLEST = 11  # pixels on the page: text of a figure is drawn with 12, and a phone may scale it down by so much

pytestmark = [
    pytest.mark.skipif(not browser.find(), reason=f"there is no browser: none of {', '.join(browser.NAMES)}"),
    pytest.mark.skipif(not READ, reason="the book is not built: run `make book`"),
]

# Each picture is drawn once more inside the page, as wide as it is shown there, so that its words can be measured.
WORDS = """async () => {
  const found = [];
  for (const image of document.querySelectorAll("article img[src$='.svg']")) {
    const wide = image.getBoundingClientRect().width;
    if (!wide) continue;
    const place = document.body.appendChild(document.createElement("div"));
    place.style = `position: absolute; top: 0; left: 0; width: ${wide}px`;
    place.innerHTML = (await (await fetch(image.src)).text()).replace(/^[^]*?<svg/, "<svg");
    const picture = place.querySelector("svg");
    picture.style = "width: 100%; height: auto";
    const edge = picture.getBoundingClientRect(), scale = wide / picture.viewBox.baseVal.width;
    for (const word of picture.querySelectorAll("text")) {
      const box = word.getBoundingClientRect();
      const out = Math.max(edge.left - box.left, box.right - edge.right, edge.top - box.top, box.bottom - edge.bottom);
      found.push([word.textContent.trim(), parseFloat(getComputedStyle(word).fontSize) * scale, box.width ? out : 0]);
    }
    place.remove();
  }
  return found;
}"""


@pytest.fixture(scope="module")
def asked():
    """What a script finds on a page of some width; without a name, on the one that is open."""
    with browser.opened(SITE) as (window, address):
        tabs = {}

        def ask(name, width, script):
            if width not in tabs:
                tabs[width] = window.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            if name:
                tabs[width].goto(f"{address}{name}.html", wait_until="load")
            return tabs[width].evaluate(script)

        yield ask


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", DRAWN or ["none"])
def test_words_of_figures_can_be_read_and_are_not_cut(asked, name, width):
    """Every word of every picture is large enough at the desk and on a phone, and lies inside its picture."""
    words = asked(name, width, WORDS)
    assert words, "pictures without words?"
    assert not [(word, round(size, 1)) for word, size, _ in words if size < SMALLEST - 0.01]
    assert not [(word, round(out, 1)) for word, _, out in words if out > 1]


SIDEWAYS = """[...document.querySelectorAll("article table")]
  .filter((table) => table.scrollWidth > table.clientWidth + 1)
  .map((table) => {
    const veils = [...table.querySelectorAll("tr, th, td, thead, tbody")]
      .map((part) => getComputedStyle(part).backgroundColor.match(/rgba\\(.*, ([\\d.]+)\\)/)?.[1] ?? 1);
    const lights = table.querySelectorAll("td[id]").length; // a styled table may colour a cell of its own
    return [table.innerText.slice(0, 60), table.tabIndex, getComputedStyle(table).backgroundImage.includes("gradient"),
      lights ? 0 : Math.max(...veils)];
  })"""


NUMBERS = """() => [...document.querySelectorAll("article .cell_output td")]
  .filter((cell) => /^-?[\\d.]+$/.test(cell.textContent.trim()) && getComputedStyle(cell).textAlign != "end")
  .filter((cell) => !cell.classList.contains("words")).map((cell) => cell.textContent)"""


@pytest.mark.parametrize("name", TABLES or ["none"])
def test_a_table_that_goes_on_to_the_side_says_so_and_can_be_reached(asked, name):
    """On a phone a shadow lies at its edge, the rows let it through, and the keyboard scrolls it; numbers of a column
    stand under each other."""
    assert not asked(name, 390, NUMBERS)
    for mode in ("light", "dark"):
        for text, place, shadow, veil in asked(
            None, 390, f"document.documentElement.dataset.theme = {mode!r};" + SIDEWAYS
        ):
            assert (place, shadow, veil < 0.5) == (0, True, True), (mode, text)


def test_panels_below_each_other_say_which_is_left(asked):
    """Captions speak of left and right."""
    named = """() => ["left", "right"].map((side) =>
      getComputedStyle(document.querySelector(`.${side}-panel`), "::before").content)"""
    name = next(name for name in DRAWN if "left-panel" in READ[name])
    assert asked(name, 390, named) == ['"left"', '"right"'] and asked(name, 1280, named) == ["none", "none"]


def test_an_enumeration_is_not_shown_as_a_call():
    assert "boundary" not in READ["book/api/vocabulary"]


def test_a_search_finds_each_formula_once(asked):
    """Its page holds a formula twice, for eyes and for ears, and its source; what is found shows one."""
    page = '<div role="main"><p>the matrix <span>{}</span> turns</p></div>'.format(
        '<span class="katex-mathml"><math><mi>R</mi><annotation>R</annotation></math></span>'
        '<span class="katex-html">R</span>'
    )
    script = f"() => Search.htmlToText({page!r}).replace(/\\s+/g, ' ').trim()"
    assert asked("search", 1280, script) == "the matrix R turns"
