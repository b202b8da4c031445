"""Figures as a built page shows them: panels stand side by side or below each other, and their text can be read."""

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from samsbook import build, panels
from test_layout import ROOT

matplotlib.use("Agg")
from samslib import plotting

CHROMIUM = Path("/usr/bin/chromium")
CODE = """from samslib import plotting
plotting.use_style()
left, right = plotting.axes(2, titles=["one", "two"])
left.plot([0, 1])
right.set(xlabel="a quantity", ylabel="another");"""


def test_each_panel_is_a_picture_of_its_own_that_has_what_it_draws(tmp_path):
    plotting.use_style()
    for ax, label in zip(plotting.axes(2), ("left", "right"), strict=True):
        ax.plot([0, 1], "o", color="red")
        ax.set(ylabel=label)
    matplotlib.pyplot.savefig(tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    first, second = made = panels.panels(svg)
    assert ">left<" in first and ">right<" not in first and ">right<" in second
    for one, x in zip(made, ("0", "252"), strict=True):
        root = ElementTree.fromstring(one)
        assert root.get("width") == "252pt" and root.get("viewBox", "").split()[:3] == [x, "0", "252"]
        used = set(re.findall(r'(?:href="#|url\(#)([\w-]+)', one))
        assert used <= {part.get("id") for part in root.iter()}, "a marker or a frame that only the other panel has"

    plotting.axes()
    matplotlib.pyplot.savefig(tmp_path / "b.svg")
    assert panels.panels(alone := (tmp_path / "b.svg").read_text()) == [alone]
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A book of one chapter with one figure of two panels, built as the book is."""
    folder = tmp_path_factory.mktemp("book")
    ours = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    style = {"html_static_path": [str(ROOT / "book" / "assets")], "html_css_files": ["book.css"]}
    config = {"title": "Tiny", "execute": ours["execute"]}
    config["sphinx"] = {"extra_extensions": ["sphinx.ext.autodoc", "samsbook.pages"], "config": style}
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    parts = [{"caption": "Chapters", "chapters": [{"file": "chapters/figures"}]}]
    (folder / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "index", "parts": parts}))
    (folder / "index.md").write_text("# Index\n\nA page.\n")
    (folder / "chapters").mkdir()
    alt = "A rising line, and a panel without one."
    shown = {"mystnb": {"figure": {"caption": "Two panels.", "name": "fig-two"}, "image": {"alt": alt}}}
    cells = [new_markdown_cell("# Figures"), new_code_cell(CODE, metadata=shown)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), folder / "chapters" / "figures.ipynb")
    build.run_chapters(folder, None)
    assert build.build_pages(folder, None) == []
    return folder / "_build" / "html" / "chapters" / "figures.html"


def test_a_page_has_a_figure_of_two_pictures_and_one_caption(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r'<img [^>]*-[12]\.svg"', text)) == 2 and text.count("<figcaption>") == 1
    assert "A rising line" in text and "Panel 2 of 2 of the same figure." in text


MEASURE = """() => [...document.querySelectorAll(".cell_output img")].map((image) => {
  const box = image.getBoundingClientRect(), style = getComputedStyle(image);
  return [box.left, box.top, box.width, image.naturalWidth, style.backgroundColor, style.filter];
})"""


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no browser at /usr/bin/chromium")
def test_text_measures_eleven_pixels_panels_stack_on_a_phone_and_a_dark_page_turns_them(page):
    """A text's size on the page is its size in the picture, by how much the page makes the picture larger."""
    sync_api = pytest.importorskip("playwright.sync_api")
    pictures = sorted(page.parents[1].glob("_images/*-[12].svg"))
    sizes = {
        float(size)
        for path in pictures
        for size in re.findall(r"font(?:-size)?: (?:[\w ]+ )?([\d.]+)px", path.read_text())
    }
    points = {ElementTree.parse(path).getroot().get("width", "") for path in pictures}
    natural = {float(width.removesuffix("pt")) for width in points}
    assert len(sizes) == len(natural) == 1
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        for width, stacked in ((1280, False), (390, True)):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.goto(page.as_uri())
            one, two = tab.evaluate(MEASURE)
            assert min(sizes) * min(one[2], two[2]) / min(natural) >= 11
            assert (two[1] > one[1], two[0] > one[0]) == (stacked, not stacked)
            tab.evaluate("document.documentElement.dataset.theme = 'dark'")
            assert [picture[4:] for picture in tab.evaluate(MEASURE)] == [
                ["rgba(0, 0, 0, 0)", "invert(1) hue-rotate(180deg)"]
            ] * 2
        browser.close()
