"""Slides of the chapters, from their built pages: a file a chapter, which needs neither the book nor a network.

python -m samsbook.slides                   every chapter, into _build/slides
python -m samsbook.slides 02_inference      one

A page has all that a slide needs: equations set, references resolved, outputs of the run. A section starts a slide, and
goes on on the next where it is full. Of a paragraph the first sentence is shown; the rest are notes, which the key N
shows, and a print. Code is folded, but for what is built from scratch; cells that show nothing are left out.
"""

from __future__ import annotations

import argparse
import base64
import mimetypes
import re
import sys
from collections.abc import Iterator
from copy import copy
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup, NavigableString, Tag

from samsbook.build import ROOT, chapters
from samsbook.check_html import problems

FULL = 15  # what fits on a slide, in lines of text
FIGURE, EQUATION, LINE = 9, 2.5, 100  # lines that a figure and an equation take; characters a line
WHOLE = ("Exercise", "Question", "Reproduced", "Not reproduced", "Verdict")  # paragraphs that are shown to their end
SLIDE = '<section class="slide">'
PLUMBING = "provenance_table"  # cells with this are for the record, not for a lecture

STYLE = """
html { scroll-snap-type: y proximity; font: clamp(17px, 1.75vw, 30px)/1.4 system-ui, sans-serif; color: #1a1a1a; }
body { margin: 0; counter-reset: slide; }
.slide { box-sizing: border-box; min-height: 100vh; padding: 4vh 7vw 6vh; scroll-snap-align: start; position: relative;
  display: flex; flex-direction: column; border-bottom: 1px solid #ddd; counter-increment: slide; }
.slide::after { content: counter(slide); position: absolute; right: 2vw; bottom: 1.5vh; color: #666; font-size: .6em; }
h1 { margin-block: 18vh 4vh; font-size: 2.4em; line-height: 1.1; }
h2 { margin: 0 0 .6em; font-size: 1.35em; color: #005a8c; }
.more { font-weight: 400; color: #666; }
p, ul, ol { margin: .35em 0; max-width: 60em; } a { color: #005a8c; }
.note { display: none; color: #555; font-size: .75em; } .notes .note { display: inline; }
figure { margin: .5em 0; } figcaption { font-size: .65em; color: #444; max-width: 90em; }
img { max-width: 100%; max-height: 58vh; object-fit: contain; object-position: left; }
pre { font-size: .58em; line-height: 1.35; margin: .4em 0; padding: .6em; background: #f5f5f5; overflow-x: auto; }
table { font-size: .65em; border-collapse: collapse; margin: .4em 0; }
th, td { padding: .15em .7em; text-align: right; }
tr { border-bottom: 1px solid #ddd; } th:first-child, td:first-child { text-align: left; }
table, .math-block, .output { display: block; max-width: 100%; overflow-x: auto; overflow-y: hidden; }
details { margin: .3em 0; } summary { font-size: .65em; color: #666; cursor: pointer; }
.eqno { float: right; color: #666; font-size: .7em; }
@media print { .slide { break-after: page; min-height: 0; border: 0; } .note { display: inline; }
  @page { size: A4 landscape; } }
"""

SCRIPT = """
const slides = [...document.querySelectorAll(".slide")];
const now = () => slides.findLastIndex((slide) => slide.getBoundingClientRect().top < innerHeight / 2);
const go = (step) => slides[Math.max(0, Math.min(slides.length - 1, now() + step))].scrollIntoView();
const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 };
addEventListener("keydown", (event) => {
  if (event.target.closest("summary, a") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n") document.body.classList.toggle("notes");
  if (event.key in steps) { event.preventDefault(); go(event.key === " " && event.shiftKey ? -1 : steps[event.key]); }
});
"""


def deck(page: Path) -> str:
    """The slides of a chapter as one HTML file.

    Parameters
    ----------
    page
        The chapter's page in the built book.

    Returns
    -------
    str
        The file, with pictures, fonts and styles inside.

    Raises
    ------
    ValueError
        If the file is not a page of the book.
    """
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article.bd-article > section")
    if article is None:
        raise ValueError(f"{page.name} is not a page of the built book: run `make book`, and name one of its chapters.")
    _stand_alone(soup, article, page)
    shown = "\n".join(_slides(soup, article))
    title = article.h1.get_text() if article.h1 else page.stem
    static = page.parents[1] / "_static"
    styles = [_inlined(static / name) for name in ("katex/katex.min.css", "pygments.css") if (static / name).exists()]
    head = f"<title>{escape(title)}: slides</title>\n<style>{''.join(styles)}</style>\n<style>{STYLE}</style>"
    view = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    page_open = f'<!DOCTYPE html>\n<html lang="en" data-theme="light">\n<head>{view}\n{head}</head>\n<body>\n<main>\n'
    return f"{page_open}{shown}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"


def _stand_alone(soup: BeautifulSoup, article: Tag, page: Path) -> None:
    """Pictures go into the file; links that lead to other pages become text, and so do those that scripts made."""
    for tag in article.select("script, style, a.headerlink, button, summary svg"):
        tag.decompose()
    for picture in article.select("img"):
        picture["src"] = _data_uri(page.parent / str(picture["src"]))
    for link in article.select("a"):
        target = str(link.get("href", ""))
        if not target.startswith("http") and not (target.startswith("#") and article.find(id=target[1:])):
            link.unwrap()


def _slides(soup: BeautifulSoup, section: Tag) -> Iterator[str]:
    """The slides of a section, and then of the sections in it."""
    heading, again, room = "", "", 0.0
    blocks: list[Tag] = []
    for child in [child for child in section.children if isinstance(child, Tag)]:
        if re.fullmatch("h[1-6]", child.name):
            level = "h1" if child.name == "h1" else "h2"
            heading = f"<{level}>{child.decode_contents()}</{level}>"
            again = f'<h2>{child.decode_contents()} <span class="more">(continued)</span></h2>'
            room = FULL - 2 - 5 * (level == "h1")
        elif child.name != "section" and (block := _block(soup, child)) is not None:
            lines = _lines(block)
            # One line alone stays with what follows, and a solution with its exercise.
            if lines > room and room < FULL - 5 and block.name != "details":
                yield _slide(heading, blocks)
                heading, blocks, room = again, [], FULL - 2
            blocks, room = [*blocks, block], room - lines
    if blocks:
        yield _slide(heading, blocks)
    for part in section.find_all("section", recursive=False):
        yield from _slides(soup, part)


def _slide(heading: str, blocks: list[Tag]) -> str:
    """One slide."""
    body = "\n".join(map(str, blocks))
    return f"{SLIDE}\n{heading}\n{body}\n</section>"


def _block(soup: BeautifulSoup, block: Tag) -> Tag | None:
    """What a slide shows of a part of a page; None where that is nothing."""
    classes = block.get_attribute_list("class")
    if block.name == "p":
        _first_sentence(soup, block)
    if "math" in classes:
        block["class"] = "math-block"
    if "margin" in classes:
        block["class"] = "note"
    return _cell(soup, block, classes) if "cell" in classes else block


def _first_sentence(soup: BeautifulSoup, paragraph: Tag) -> None:
    """All of a paragraph but its first sentence becomes a note; exercises and verdicts are kept whole."""
    if paragraph.get_text().startswith(WHOLE):
        return
    for child in list(paragraph.children):
        end = re.search(r"[.?!](?=\s)", child) if isinstance(child, NavigableString) else None
        if end is not None:
            shown, rest = str(child)[: end.end()], str(child)[end.end() :]
            note = soup.new_tag("span", attrs={"class": "note"})
            note.extend([NavigableString(rest), *[later.extract() for later in list(child.next_siblings)]])
            child.replace_with(NavigableString(shown), note)
            return


def _cell(soup: BeautifulSoup, cell: Tag, classes: list) -> Tag | None:
    """A code cell: what it printed and drew, and its code, folded unless it builds something from scratch."""
    source, outputs = cell.select_one(".cell_input"), cell.select_one(".cell_output")
    for noise in cell.select(".stderr, .output"):
        if "%|" in noise.get_text() or "stderr" in noise.get_attribute_list("class"):
            noise.decompose()  # progress bars
    code = source.get_text() if source else ""
    mirror = "tag_mirror" in classes
    if PLUMBING in code or not mirror and (outputs is None or not (outputs.get_text().strip() or outputs.img)):
        return None
    if source is not None and not mirror:
        summary = soup.new_tag("summary")
        summary.string = "Code"
        folded = source.wrap(soup.new_tag("details"))
        folded.insert(0, summary)
        cell.append(folded)  # after what it made
    return cell


def _lines(block: Tag) -> float:
    """How many lines of a slide a block takes, about."""
    if block.name == "details" or block.get("class") == "note":
        return 1
    visible = copy(block)
    for hidden in visible.select(".note, details"):
        hidden.decompose()
    lines = FIGURE * len(visible.select("img")) + EQUATION * (block.get("class") == "math-block")
    lines += 0.7 * sum(pre.get_text().count("\n") + 1 for pre in visible.select("pre"))
    lines += 0.8 * len(visible.select("tr"))
    texts = [visible] if block.name == "p" else visible.select("p, li")
    return lines + sum(1 + len(text.get_text()) // LINE for text in texts)


def _data_uri(path: Path) -> str:
    """A file as an address that holds it."""
    kind = mimetypes.guess_type(path.name)[0] or "font/woff2"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _inlined(sheet: Path) -> str:
    """A style sheet with its fonts inside: of each font the first file named, which is the smallest."""
    text = re.sub(r'(src:url\([^)]*\) ?format\("[^"]*"\))(,url\([^)]*\) ?format\("[^"]*"\))+', r"\1", sheet.read_text())
    return re.sub(r"url\(([^):]+)\)", lambda found: f"url({_data_uri(sheet.parent / found[1])})", text)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the slides of chapters; the command line of the module's text. Returns the exit status."""
    known = {Path(name).name: root / "_build" / "html" / f"{name}.html" for name in chapters(root)}
    parser = argparse.ArgumentParser(description="Write slides of the chapters into _build/slides.")
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help=f"of {', '.join(known)}; all if none is named")
    asked = parser.parse_args(arguments).chapters or list(known)
    for name in asked:
        if not known.get(name, Path()).is_file():
            why = (
                "is not built yet: run `make book`" if name in known else f"is no chapter; there are {', '.join(known)}"
            )
            print(f"{name} {why}.", file=sys.stderr)
            return 2
    folder = root / "_build" / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    for name in asked:
        path, text = folder / f"{name}.html", deck(known[name])
        path.write_text(text, encoding="utf-8")
        as_source = 'class="math' in text and 'class="katex' not in text
        remark = ", equations as LaTeX: install Node and run `make book FULL=1` to have them set" if as_source else ""
        print(f"{path.relative_to(root)}: {text.count(SLIDE)} slides{remark}")
    defects = problems(folder)
    print(*defects, sep="\n", end="\n" if defects else "")
    return int(bool(defects))


if __name__ == "__main__":
    sys.exit(main())
