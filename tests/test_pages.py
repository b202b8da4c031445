"""The reader of built pages finds what a browser or a reader would stumble over; docstrings become pages."""

import bs4
import nbformat
import pandas as pd
import pytest
from docutils import nodes
from docutils.utils import new_document
from samsbook.check_html import problems
from samsbook.pages import _lift_asides, _plain_docstring, documented, folded, plain_heading

GOOD = '<html><body><h1 id="top">A</h1><a href="#top">up</a><a href="b.html#there">b</a>{}</body></html>'


def site(tmp_path, extra="", css=""):
    (tmp_path / "a.html").write_text(GOOD.format(extra))
    (tmp_path / "b.html").write_text(
        '<html><body><p id="there">B</p><a href="https://example.org">out</a></body></html>'
    )
    (tmp_path / "p.png").write_bytes(b"")
    (tmp_path / "s.css").write_text(css)
    return tmp_path


def test_a_sound_site_has_no_problems(tmp_path):
    picture = '<img src="p.png" alt="A rising line."><link rel="stylesheet" href="s.css?v=1">'
    assert problems(site(tmp_path, picture)) == []


@pytest.mark.parametrize(
    "extra, says",
    [
        ('<a href="c.html">c</a>', "links to c.html, which is not there"),
        ('<a href="b.html#here">b</a>', "no #here"),
        ('<a href="#below">below</a>', "no #below"),
        ('<img src="q.png" alt="A line.">', "loads q.png, which is not there"),
        ('<img src="p.png">', "no real alt text"),
        ('<img src="p.png" alt="_images/0123456789abcdef0123.png">', "no real alt text"),
        ('<script src="https://cdn.example.org/x.js"></script>', "from the network"),
        ('<script src="//cdn.example.org/x.js"></script>', "from the network"),
        ('<link rel="stylesheet" href="https://cdn.example.org/x.css">', "from the network"),
        ("<style>@import 'https://example.org/f.css';</style>", "from the network"),
        ('<span class="katex-error">\\oops</span>', "KaTeX"),
        ('<span class="problematic">x_</span>', "not resolved"),
    ],
)
def test_each_defect_is_found(tmp_path, extra, says):
    (found,) = problems(site(tmp_path, extra))
    assert found.startswith("a.html: ") and says in found


def test_fonts_of_a_style_sheet_are_followed(tmp_path):
    css = "@font-face{src:url(f.woff2)} @font-face{src:url(https://example.org/g.woff2)} a{b:url(data:x)}"
    assert len(problems(site(tmp_path, css=css))) == 2


def test_an_empty_site_is_a_problem(tmp_path):
    assert "build the book first" in problems(tmp_path)[0]


def test_docstrings_keep_their_equations_and_their_code_and_napoleon_reads_the_sections():
    lines = ["Draw `n_` of *x*.", "", "The law is", "    E * M | t_", "", "Parameters", "----------", "x", "    `a*b`"]
    _plain_docstring(None, "function", "f", None, None, lines)
    assert lines[:5] == ["Draw ``n_`` of \\*x\\*.", "", "| The law is", "|     E * M | t\\_", ""]
    assert lines[-4:] == ["Parameters", "----------", "x", "    ``a*b``"]


def test_the_reference_names_modules_that_exist_and_one_page_has_the_others(tmp_path):
    (tmp_path / "a.md").write_text(".. modules:: trace models\n")
    (tmp_path / "b.md").write_text(".. modules::\n")
    pages = documented(tmp_path)
    assert {"samslib.trace", "samslib.models", "samslib.models.cpa"} <= set(pages["a"])
    assert "samslib.cells" in pages["b"] and not set(pages["a"]) & set(pages["b"])
    (tmp_path / "b.md").write_text(".. modules:: trance\n")
    with pytest.raises(ValueError, match="no module 'trance'"):
        documented(tmp_path)


@pytest.mark.parametrize(
    ("code", "tags", "fold"),
    [
        ("import torch\nfrom samslib import (\n    plotting,\n)\n\nplotting.use_style()", [], "hide-input"),
        ("steps: int = 3  # of training", ["parameters"], "hide-input"),
        ("parameters = samsbook.check_parameters(globals())\ndata = load()", [], "hide-input"),
        ("model = samslib.SAMSVAE(summary)\nsamslib.fit(model, train)", ["training"], "hide-input"),
        ("ax = plotting.lines(table, 'a', 'b')\nax.set(xlabel='x');", [], "hide-input"),
        ("samsbook.provenance_table(long).style", [], "hide-cell"),
        ("plotting.lines(table)\ntorch.testing.assert_close(mine, library)", ["mirror"], None),
        ("effects = samslib.average_effects(model, data)\neffects.to_df()", [], None),
    ],
)
def test_plumbing_is_folded_and_what_is_to_be_read_is_open(code, tags, fold):
    cell = nbformat.v4.new_code_cell(code, metadata={"tags": tags})
    found = folded(cell)
    assert (found and found[0]) == fold
    assert folded(nbformat.v4.new_markdown_cell(code)) is None


def test_the_names_of_an_index_stand_beside_the_names_of_columns():
    """Of one level and of two, with and without a name of the columns; an index without a name leaves a plain cell."""
    frame = pd.DataFrame({"f1": [0.5, 0.7], "bound": [1, 2]}, pd.Index(["a", "b"], name="model"))

    def heading(frame):
        head = bs4.BeautifulSoup(plain_heading(frame.to_html()), "html.parser").thead
        return [[(cell.name, cell.get_text()) for cell in row.find_all(["th", "td"])] for row in head.find_all("tr")]

    assert heading(frame) == [[("th", "model"), ("th", "f1"), ("th", "bound")]]
    assert heading(frame.rename_axis(columns="score")) == heading(frame)
    two = frame.assign(arm=1).set_index("arm", append=True)
    assert heading(two) == [[("th", "model"), ("th", "arm"), ("th", "f1"), ("th", "bound")]]
    assert heading(frame.rename_axis(None)) == [[("td", ""), ("th", "f1"), ("th", "bound")]]
    levels = heading(pd.concat({"test": frame}, axis=1))
    assert levels == [[("td", ""), ("th", "test")], [("th", "model"), ("th", "f1"), ("th", "bound")]]
    assert plain_heading("<p>no table</p>") == "<p>no table</p>"


def test_an_aside_comes_before_the_paragraph_that_it_was_written_after():
    section = nodes.section("", nodes.paragraph(text="a"), nodes.paragraph(text="b"), nodes.sidebar(classes=["margin"]))
    section += [nodes.paragraph(text="c"), nodes.literal_block(), nodes.sidebar(classes=["margin"])]
    document = new_document("page")
    document += section
    _lift_asides(None, document)
    kinds = [type(node).__name__ for node in section.children]
    assert kinds == ["paragraph", "sidebar", "paragraph", "paragraph", "literal_block", "sidebar"]
    assert section[2].astext() == "b"
