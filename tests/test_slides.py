"""Slides are a chapter's built page in pieces: cut at sections, whole in one file, nothing of it fetched."""

import base64
import re
import shutil

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from samsbook import build, outputs, slides
from samsbook.check_html import Page, problems
from test_layout import ROOT

PICTURE = base64.b64encode((ROOT / "book" / "assets" / "readme.png").read_bytes()).decode()
DRAWN = {"image": {"alt": "A rising line."}, "figure": {"caption": "What to look at in it.", "name": "fig-line"}}
LONG = "The point is made. The rest of it is said by the teacher, about $x$ and more."
LINES = "\n".join(f"row_{i} = {i}" for i in range(12))


def code(source, tag=None, text=None, **metadata):
    cell = new_code_cell(source, metadata={**metadata, **({"tags": [tag]} if tag else {})})
    if text:
        cell.outputs = [new_output("stream", text=text)]
    return cell


def picture():
    cell = code("draw()", mystnb=DRAWN)
    cell.outputs = [new_output("display_data", {"image/png": PICTURE, "text/plain": "a figure"})]
    return cell


CELLS = [
    new_markdown_cell(f"# Title\n\n{LONG}\n\n## One\n\n{LONG}\n\n$$x = y$$ (eq-one)\n\nSee {{eq}}`eq-one`. Then more."),
    code("silent = 1"),
    code("print('said')", text="said"),
    code("samsbook.provenance_table(run)", text="sha256"),
    picture(),
    new_markdown_cell(f"### Within\n\n{LONG}"),
    code(LINES, "mirror", text="agrees"),
    code(LINES, "mirror", text="agrees again"),
    new_markdown_cell(
        "## Exercises\n\n**Exercise 1.1 (think).** Why? And what? See {doc}`02_other` and [out](https://example.org).\n\n"
        "```{dropdown} Solution\nBecause.\n```\n\n**Reproduced here:** this. **Not reproduced:** that."
    ),
]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A built book with a chapter of every kind of cell, set as the true one is."""
    root = tmp_path_factory.mktemp("book")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["sphinx"]["config"].update(html_css_files=[], html_js_files=[])
    for key in ("logo", "bibtex_bibfiles", "html"):
        config.pop(key)
    del config["sphinx"]["config"]["html_theme_options"]
    (root / "_config.yml").write_text(yaml.safe_dump(config))
    names = ("01_first", "02_other")
    parts = [{"caption": "Chapters", "numbered": True, "chapters": [{"file": f"chapters/{name}"} for name in names]}]
    (root / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/index", "parts": parts}))
    shutil.copytree(ROOT / "book" / "assets" / "katex", root / "book" / "assets" / "katex")
    (root / "book" / "index.md").write_text("# Index\n\nA page.\n")
    (root / "chapters").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name, cells in zip(names, (CELLS, [new_markdown_cell("# Other")]), strict=True):
        notebook = new_notebook(cells=cells, metadata=kernel)
        nbformat.write(notebook, root / "chapters" / f"{name}.ipynb")
        outputs.keep(notebook, outputs.place(root, f"chapters/{name}"), "")
    defects = build.build_pages(root, None)
    assert (root / "_build" / "html" / "chapters" / "01_first.html").exists(), defects
    return root


@pytest.fixture(scope="module")
def deck(book):
    assert slides.main(["01_first"], book) == 0
    return (book / "_build" / "slides" / "01_first.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(deck):
    return BeautifulSoup(deck, "html.parser").select(".slide")


def test_slides_are_cut_at_sections_and_where_they_are_full(shown):
    titles = [slide.select_one("h1, h2").get_text() for slide in shown]
    assert titles == [
        "1. Title", "1.1. One", "1.1. One (continued)", "1.1.1. Within", "1.1.1. Within (continued)", "1.2. Exercises",
    ]  # fmt: skip
    assert [bool(slide.h1) for slide in shown] == [True] + 5 * [False]
    assert shown[2].img and len(shown[1].select("pre")) == 2


def test_a_paragraph_shows_its_first_sentence_and_keeps_the_rest_as_notes(shown):
    paragraph = shown[0].p
    note = paragraph.select_one(".note").extract()
    assert paragraph.get_text() == "The point is made."
    assert note.get_text().startswith(" The rest of it is said by the teacher, about") and note.get_text().endswith(
        "more."
    )
    exercise, verdict = shown[-1].find_all("p", recursive=False)
    assert not exercise.select(".note") and not verdict.select(".note"), "asked, and judged, to the end"


def test_code_is_folded_but_for_what_is_built_from_scratch_and_what_shows_nothing_is_left_out(deck, shown):
    folded = [details.get_text() for details in shown[1].select("details")]
    assert len(folded) == 1 and "said" in folded[0] and "silent" not in deck and "sha256" not in deck
    assert "row_11" in shown[3].get_text() and not shown[3].select("details")
    assert "Because." in shown[-1].details.get_text(), "a solution stays folded, with its exercise"


def test_a_deck_is_one_file_that_asks_for_nothing(book, deck, shown):
    page = Page(deck)
    assert all(address.startswith("data:") for address in page.loads)
    assert re.findall(r"url\((?!data:)", deck) == [] and "@import" not in deck and "<link" not in deck
    assert deck.count("<script") == 1 and "src=" not in deck.split("<script")[1]
    assert base64.b64decode(shown[2].img["src"].split(",")[1]) == base64.b64decode(PICTURE)
    assert shown[2].img["alt"] == "A rising line." and "What to look at in it." in shown[2].figcaption.get_text()
    assert page.links == ["#equation-eq-one", "https://example.org"], "a link to another page is text"
    assert problems(book / "_build" / "slides") == []


@pytest.mark.skipif(not shutil.which("node"), reason="equations are set by Node while the book is built")
def test_equations_come_set_with_the_fonts_that_they_need(deck, shown):
    assert shown[1].select(".math-block .katex") and "font/woff2;base64," in deck


def test_what_stands_in_the_margin_is_a_note(tmp_path):
    aside = "<aside class='margin sidebar'><p>By the way. And so on.</p></aside>"
    page = tmp_path / "a.html"
    page.write_text(f"<article class='bd-article'><section><h1>A</h1><p>Said.</p>{aside}</section></article>")
    (note,) = BeautifulSoup(slides.deck(page), "html.parser").select(".slide .note")
    assert note.get_text() == "By the way. And so on."


def test_equations_that_are_not_set_are_told(tmp_path, capsys):
    page = "<article class='bd-article'><section><h1>A</h1><p>Is <span class='math'>x</span>.</p></section></article>"
    (tmp_path / "_toc.yml").write_text("parts: [{chapters: [{file: chapters/01_a}]}]")
    (tmp_path / "_build" / "html" / "chapters").mkdir(parents=True)
    (tmp_path / "_build" / "html" / "chapters" / "01_a.html").write_text(page)
    assert slides.main([], tmp_path) == 0
    assert capsys.readouterr().out.startswith("_build/slides/01_a.html: 1 slides, equations as LaTeX: install Node")


def test_what_is_missing_is_told_in_one_sentence(book, tmp_path, capsys):
    assert slides.main(["03_none"], book) == 2
    assert capsys.readouterr().err == "03_none is no chapter; there are 01_first, 02_other.\n"
    shutil.copy(book / "_toc.yml", tmp_path)
    assert slides.main([], tmp_path) == 2
    assert capsys.readouterr().err == "01_first is not built yet: run `make book`.\n"
    (tmp_path / "odd.html").write_text("<html></html>")
    with pytest.raises(ValueError, match=r"odd.html is not a page of the built book: run `make book`"):
        slides.deck(tmp_path / "odd.html")


def test_one_target_makes_them():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\nslides: book\n\t$(BIN)/python -m samsbook.slides\n" in makefile and " slides " in makefile.splitlines()[1]
