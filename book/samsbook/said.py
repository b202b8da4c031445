"""Numbers that a chapter's prose quotes and the chapter does not show.

Prose quotes numbers and a run gives them, so they part when data, settings or threads change. Here each number in
text, captions and descriptions of figures is looked for in what its own section prints and in its code, and in the
cells before the first section, which hold the parameters. It is shown if a number there rounds to it. Of a table, only
rows count that the sentence has a word of; if it has a word of none, those of its paragraph. Read are numbers with a
decimal point, percentages, and whole numbers from 100 on.

- A paragraph that names a figure of another section is held against that section too; the opening, the summary and the
  last section against all that the chapter prints.
- A number from elsewhere is allowed by its cell's metadata: `"said": {"75.7": "where it is from"}`. If the source is a
  table below data/, the number must be in it.
- A whole number may also stand on the page on data or on that on differences: sizes of data sets, published settings.
- Not read: code, formulas with letters, exercises and questions, and "95%", the level of every interval.

What is not seen: whether the number that is shown is the one that is meant, and what is said without a number. With
another last digit, nearly all whole numbers of the chapters would be named, six in ten of those with two decimals and
a third of those with one; the others stand by chance in a row that the sentence names.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

NUMBER = re.compile(r"(?<![\w.,])[-\u2212+]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?:e([-+]?\d+))?(\s?%)?(?!\w|[.,]\d)")
FORMULA = re.compile(r"\$([^$]+)\$")
FACTS = ("book/data.md", "book/differences.md")
WHOLE = re.compile(r"Summary|Rerun")  # titles of sections that speak of the whole chapter
COMMON = frozenset("data cell the and with from all for nan true false".split())  # words that tell no row
PICTURE = re.compile(r"plotting\.|\.set\(|color|\bax\b")  # lines of code whose numbers are of looks
UNREAD = [
    re.compile(pattern, re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^### Check yourself.*",
        r"^(`{3,})(?!`)(?!\{).*?^\1",  # a block of code; one of a directive is prose
        r"^`{3,}.*?$",
        r"^ {4,}\S.*?$",
        r"^\$\$.*?^\$\$.*?$",
        r"^:(?!alt:)\w+:.*?$",  # options of a directive
        r"(?:\{[\w:]+\})?`[^`]+`",  # roles and code
        r"<[^>]+>|\]\([^)]*\)",
        r"[Ee]xercise \d[\d.]*\d",
    )
]

Row = tuple[frozenset[str], list[float]]  # words of a table's row (none for other text), and its numbers


@dataclass
class Section:
    """What stands between two headings: prose by cell, and the numbers of code and outputs."""

    title: str
    prose: list[tuple[str, NotebookNode]] = field(default_factory=list)
    code: list[Row] = field(default_factory=list)
    printed: list[Row] = field(default_factory=list)
    figures: set[str] = field(default_factory=set)


def unshown(notebook: NotebookNode, root: Path) -> list[str]:
    """Quoted numbers that a chapter does not show.

    Parameters
    ----------
    notebook
        The chapter as it was run.
    root
        The book's folder, below which the tables of allowed numbers are looked up.

    Returns
    -------
    list
        One line a number, with its section and sentence; and one an allowance that nothing needs.
    """
    parts, found, used = sections(notebook), [], set()
    facts = " ".join((root / page).read_text(encoding="utf-8") for page in FACTS if (root / page).is_file())
    known = {match[0] for match in NUMBER.finditer(facts) if re.fullmatch(r"[\d,]{3,}", match[0])}
    for part in parts:
        for prose, cell in part.prose:
            allowed = cell.metadata.get("said", {})
            for paragraph in paragraphs(prose):
                for sentence, number in quoted(paragraph):
                    shown = within_reach(sentence, paragraph, part, parts)
                    if number in allowed and _in_source(number, allowed[number], root):
                        used.add((cell.id, number))
                    elif number not in known and not any(rounds_to(value, number) for value in shown):
                        found.append(f'{part.title}: nothing shown there gives the {number} of "{sentence}"')
    for cell in notebook.cells:
        for number in cell.metadata.get("said", {}):
            if (cell.id, number) not in used:
                found.append(f"cell {cell.id}: its metadata allow {number}, not said there or not in its source")
    return list(dict.fromkeys(found))


def sections(notebook: NotebookNode) -> list[Section]:
    """A chapter from heading to heading of the second level; the first part is the opening with the parameters."""
    parts = [Section("Opening")]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            first, *rest = re.split(r"^## ", cell.source, flags=re.MULTILINE)
            parts[-1].prose.append((first, cell))
            parts += [Section(text.partition("\n")[0], [(text.partition("\n")[2], cell)]) for text in rest]
        else:
            told = cell.metadata.get("mystnb", {})
            figure, picture = told.get("figure", {}), told.get("image", {})
            parts[-1].prose.append((f"{figure.get('caption', '')}\n\n{picture.get('alt', '')}", cell))
            parts[-1].figures |= {figure["name"]} if "name" in figure else set()
            parts[-1].code.append(_of_code(cell))
            parts[-1].printed += _of_outputs(cell)
    return [part for part in parts if part.title != "Exercises"]


def within_reach(sentence: str, paragraph: str, part: Section, parts: list[Section]) -> list[float]:
    """The numbers that a sentence may quote: of tables those of rows that it names, or else its paragraph."""
    wide = part is parts[0] or WHOLE.match(part.title)
    near = [parts[0], part, *(one for one in parts if any(name in paragraph for name in one.figures))]
    rows = [row for one in (parts if wide else near) for row in one.printed] + [row for one in near for row in one.code]
    said = words(sentence)
    if not any(row & said for row, _ in rows):
        said = words(paragraph)
    return [value for row, numbers in rows if not row or row & said for value in numbers]


def words(text: str) -> frozenset[str]:
    """The telling words of a text, in small letters and without an s at the end."""
    found = re.findall(r"[a-z][\w+-]{2,}", text.lower())
    return frozenset(word.rstrip("s") for word in found) - COMMON


def paragraphs(prose: str) -> list[str]:
    """What is read of a text, paragraph by paragraph."""
    prose = re.sub(r"\{numref\}`([^`]+)`", r"\1", prose)  # whose names are wanted
    for pattern in UNREAD:
        prose = pattern.sub(" ", prose)
    prose = FORMULA.sub(lambda match: "" if re.search(r"[A-Za-z]", match[1].replace(r"\pm", "")) else match[1], prose)
    return re.split(r"\n\s*\n", prose)


def quoted(paragraph: str) -> Iterator[tuple[str, str]]:
    """Each sentence with each of its numbers that must be shown."""
    for sentence in re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split())):
        for match in NUMBER.finditer(sentence):
            whole, decimals, _, percent = match.groups()
            number = match[0].lstrip("+-\u2212")
            if (decimals or percent or len(whole) > 2) and number != "95%":
                yield sentence, number


def values(text: str) -> list[float]:
    """The numbers in a text, without their sign."""
    return [_value(match[0]) for match in NUMBER.finditer(re.sub(r"(?<=\d)_(?=\d)", "", text))]


def rounds_to(value: float, number: str) -> bool:
    """Whether a value, rounded as a number is written, gives it; 19,060 gives 19,000, but 12,000 not 10,000."""
    digits = number.rstrip("% ").replace(",", "")
    zeros = len(digits) - max(len(digits.rstrip("0")), 2)
    unit = 10.0 ** (-len(digits.partition(".")[2]) if "." in digits else max(zeros, 0))
    unit /= 100 if "%" in number else 1
    return abs(value - _value(number)) <= unit / 2 * (1 + 1e-6)


def _value(number: str) -> float:
    """A number as written, without its sign; of a percentage the share."""
    size = abs(float(re.sub(r"[,%\s]", "", number).replace("\u2212", "-")))
    return size / 100 if "%" in number else size


def _of_code(cell: NotebookNode) -> Row:
    lines = [line.partition("#")[0] for line in cell.source.splitlines() if not PICTURE.search(line)]
    return frozenset(), values("\n".join(lines))


def _of_outputs(cell: NotebookNode) -> Iterator[Row]:
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        lines = re.findall(r"<tr.*?</tr>", data.get("text/html", ""), flags=re.DOTALL)
        if not lines:
            yield frozenset(), values(output.get("text", "") or data.get("text/markdown") or data.get("text/plain", ""))
        outer: list[str] = []  # a label of several rows stands in the first of them
        for line in lines:
            heads, cells = (re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", line, flags=re.DOTALL) for tag in ("th", "td"))
            outer = heads[:-1] if cells and len(heads) > len(outer) else outer
            yield frozenset(), values(" ".join(heads))
            yield words(" ".join([*heads, *outer, *cells])), values(" ".join(cells))


def _in_source(number: str, source: str, root: Path) -> bool:
    """Whether a number is in the table below data/ that its source names, if it names one."""
    named = re.search(r"data/[\w./-]+\.csv", source)
    if named is None:
        return True
    with (root / named[0]).open(encoding="utf-8", newline="") as table:
        return any(rounds_to(value, number) for row in csv.reader(table) for text in row for value in values(text))
