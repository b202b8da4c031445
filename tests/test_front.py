"""The first page: what it claims is what was recorded, and it is the site's index, without a detour."""

import re

import nbformat
import pytest
import samsbook
import yaml
from samsbook import build, check_html
from test_build import tiny  # noqa: F401  a fixture
from test_layout import ROOT


def claim(start):
    """The numbers of one of the three results."""
    front = (ROOT / "book" / "introduction.md").read_text(encoding="utf-8")
    [text] = re.findall(rf"- \*\*{start}\*\*(.*?)\n(?=- |\n)", front, re.DOTALL)
    return text, [float(number) for number in re.findall(r"\b0\.\d\d\b", text)]


def test_the_first_result_is_that_of_the_recorded_screens():
    text, numbers = claim("Better than the paper.")
    table = samsbook.read_results("beyond-sparsity")
    default, tuned = table[table["way"] == "default"]["f1"], table[table["tuned"]]["f1"]
    assert "six simulated screens" in text and len(default) == 6
    assert numbers == pytest.approx([default.min(), default.max(), tuned.min(), tuned.max()], abs=0.005)


def test_the_second_result_is_that_of_the_recorded_real_screen():
    text, numbers = claim("As good as it gets.")
    table = samsbook.read_results("beyond-effects")
    means = table.groupby("model")["correlation"].mean()
    ours, published = means["SAMS-VAE, guides and direct effects"], means["SAMS-VAE, correlated"]
    alone = means[means.index.str.startswith("data: ")].max()
    assert "19,060" in text
    assert numbers == pytest.approx([ours, published, alone, table["ceiling"].mean()], abs=0.005)


def test_the_third_result_is_that_of_the_recorded_pairs():
    _, numbers = claim("Not better at all.")
    table = samsbook.read_results("grid-devel-norman").query("fraction == 0 and task == 'unseen combinations'")
    means = table[table["encoding"] == "compositional"].groupby("model")["pearson"].mean()
    assert numbers == pytest.approx([means["SAMS-VAE"], means["additive"]], abs=0.005)


def test_addresses_are_written_anew_where_a_page_is_read_from_the_folder_above():
    page = '<html data-content_root="../"><a href="rerun.html#x"><img src="../_static/a.svg"><a href="#top"><a href="https://x.org">'
    told = '<html data-content_root="./"><a href="book/rerun.html#x"><img src="_static/a.svg"><a href="#top"><a href="https://x.org">'
    assert build.from_above(page, "book") == told


def test_the_front_page_is_the_index_and_an_address_brings_buttons(tiny, capsys):  # noqa: F811
    """The index shows the page itself, with links that resolve; and with the address of a repository there is a way to
    its file, its issues, Colab and Binder, for nothing that is fetched."""
    (tiny / "book" / "index.md").rename(tiny / "book" / "introduction.md")
    front = tiny / "book" / "introduction.md"
    front.write_text('# Front\n\nHello, {doc}`/chapters/01_first`. <span class="built">Not said.</span>\n')
    toc, config = tiny / "_toc.yml", tiny / "_config.yml"
    toc.write_text(toc.read_text().replace("book/index", "book/introduction"))
    known = yaml.safe_load(config.read_text()) | {
        "repository": {"url": "https://github.com/ours/book", "branch": "main"}
    }
    config.write_text(yaml.safe_dump(known))
    assert build.main([], tiny) == 0, capsys.readouterr().out
    site = tiny / "_build" / "html"
    index = (site / "index.html").read_text()
    assert "Hello, " in index and 'http-equiv="refresh"' not in index.lower()
    assert re.search(r'<span class="built">Built on \d\d \w+ \d{4} from version \d', index)
    assert 'href="chapters/01_first.html"' in index and not check_html.problems(site)
    chapter = (site / "chapters" / "01_first.html").read_text()
    for way in ("github.com/ours/book/edit/main/chapters/01_first.ipynb", "github.com/ours/book/issues"):
        assert way in chapter
    downloaded = nbformat.read(site / "_sources" / "chapters" / "01_first.ipynb", as_version=4)
    assert downloaded.cells[0].source == '%pip install -q "samslib[book] @ git+https://github.com/ours/book"'
    assert downloaded.cells[1].source == "# Title 01_first"
    assert "colab.research.google.com/github/ours/book" in chapter and "mybinder.org/v2/gh/ours/book" in chapter
