"""The table of symbols has every symbol of the chapters, and those of one chapter are used in it."""

import json
import re
from functools import cache

import pytest
from test_layout import CHAPTERS, ROOT

GREEK = set(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell""".split()
)
WORDS = re.compile(r"\\(?:text\w*|mathrm|operatorname\*?|begin|end|label|q?quad)\s*(?:\{[^{}]*\})?")
ALPHABET = re.compile(r"\\(mathcal|mathbb|mathbf|mathfrak)\s*\{?\s*([A-Z])\}?")


def formulas(text):
    """The formulas of a page, those of folded answers included; code is no formula."""
    text = re.sub(r"^(`{3,})(?:python|bash|bibtex)\n.*?^\1$", "", text, flags=re.M | re.S)
    text = re.sub(r"(?<!`)`(?!`)[^`\n]+`(?!`)", "", text)
    displayed = re.findall(r"\$\$(.*?)\$\$", text, re.S)
    return displayed + re.findall(r"\$([^$]+?)\$", re.sub(r"\$\$.*?\$\$", "", text, flags=re.S))


def symbols(formula):
    """Its letters, Latin and Greek, and such as \\mathcal N; words and the indices' words are left out."""
    formula = WORDS.sub(" ", formula)
    found = {rf"\{name} {letter}" for name, letter in ALPHABET.findall(formula)}
    formula = ALPHABET.sub(" ", formula)
    found |= {rf"\{name}" for name in re.findall(r"\\([A-Za-z]+)", formula) if name in GREEK}
    return found | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))


def text_of(path):
    """What a chapter says: its Markdown and its captions."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
        yield "".join(cell["source"]) if cell["cell_type"] == "markdown" else caption


def first_columns(page):
    rows = re.findall(r"^\| *(.*?) *\| *(.*?) *\|", page, re.M)
    return [(set().union(*map(symbols, formulas(first))), second) for first, second in rows if "$" in first]


@cache
def tables():
    """Symbols of the whole book, and those of each chapter by its number, as the page says."""
    page = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    everywhere, local = page.split("## Symbols of single chapters\n")
    of_chapter = {}
    for found, chapters in first_columns(local):
        for chapter in map(int, chapters.split(", ")):
            of_chapter[chapter] = of_chapter.get(chapter, set()) | found
    return set().union(*(found for found, _ in first_columns(everywhere))), of_chapter


def number(path):
    return int(path.stem.split("_")[0])


def used(path):
    """symbol -> the first formula with it."""
    pairs = [(symbol, formula) for text in text_of(path) for formula in formulas(text) for symbol in symbols(formula)]
    return dict(reversed(pairs))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_symbol_of_a_chapter_is_in_the_tables(path):
    everywhere, of_chapter = tables()
    known = everywhere | of_chapter.get(number(path), set())
    missing = [
        f"  {symbol} in ${' '.join(formula.split())}$" for symbol, formula in used(path).items() if symbol not in known
    ]
    assert not missing, "\n".join([f"{path.stem} has symbols that are in no table of book/notation.md:", *missing])


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_symbols_of_a_chapter_are_used_in_it(path):
    unused = tables()[1].get(number(path), set()) - set(used(path))
    assert not unused, f"{path.stem} does not use {sorted(unused)}, which the last table of book/notation.md gives it"


def test_letters_mean_one_thing():
    """A letter of one chapter is none of the whole book's, but for an index."""
    everywhere, of_chapter = tables()
    indices = {"t", "g", "j", "k"}  # stand at a letter as its index
    twice = {chapter: (found & everywhere) - indices for chapter, found in of_chapter.items()}
    assert not any(twice.values()), twice


def test_the_scanner_finds_what_there_is():
    text = (
        "Of $\\alpha_{tk}$ and `$x$`,\n\n$$\n\\mathcal N(\\mu, \\text{width}) \\\\ \\frac1P \\mathrm{d}z\n$$ (eq)\n\n"
    )
    text += "```python\n$y$\n```\n\n```{dropdown} Answer\nIt is `one`: $q$.\n```\n"
    assert set().union(*map(symbols, formulas(text))) == {r"\alpha", "t", "k", r"\mathcal N", r"\mu", "P", "z", "q"}
