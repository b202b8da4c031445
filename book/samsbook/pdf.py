"""The whole book as one PDF, `_build/book.pdf`, printed from the built pages by a browser of the system.

python -m samsbook.pdf

Chapters keep their numbers, solutions and code are open, and no line of code is cut.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import yaml

from samsbook import browser
from samsbook.results import root

PRINTED = """
.bd-sidebar, .bd-header, .bd-header-article, .bd-footer-article, .prev-next-footer, .bd-footer, .headerlink,
.copybtn, .bd-sidebar-secondary, .search-button__wrapper, #pst-skip-link, .skip-link, .ways { display: none !important }
.bd-main .bd-content .bd-article-container, .bd-page-width, .bd-article {
  max-width: 100% !important; padding: 0 !important;
}
#jb-print-docs-body, details.hide > summary { display: none !important }
.bd-article h1 { display: block !important; }
* { animation: none !important; transition: none !important; opacity: 1 !important; }
pre, pre * { white-space: pre-wrap !important; overflow-wrap: anywhere !important; }
div.cell pre, div.highlight pre { font-size: 8.5pt !important; }
table, figure, .katex-display, .cell_output > * { break-inside: avoid; }
table { display: table !important; width: auto !important; font-size: 8pt !important; }
.katex-display, .cell_output, .math { overflow: visible !important; }
"""

READY = """() => {
  document.documentElement.dataset.theme = document.documentElement.dataset.mode = "light";
  document.querySelectorAll("details").forEach((part) => (part.open = true));
  document.querySelectorAll(".toggle-hidden").forEach((part) => part.classList.remove("toggle-hidden"));
  for (const link of document.querySelectorAll("a[href]"))  // another page of the site has no address in print
    if (link.origin === location.origin && link.pathname !== location.pathname) link.removeAttribute("href");
}"""


def pages(folder: Path) -> list[str]:
    """The pages of the table of contents, in order.

    Parameters
    ----------
    folder
        The book's.

    Returns
    -------
    list
        Names without suffix.
    """
    toc = yaml.safe_load((folder / "_toc.yml").read_text(encoding="utf-8"))

    def below(entry: dict) -> list[str]:
        return [entry["file"], *(name for section in entry.get("sections", ()) for name in below(section))]

    return [toc["root"], *(name for part in toc["parts"] for entry in part["chapters"] for name in below(entry))]


def write(folder: Path, names: list[str]) -> Path:
    """Print pages of the built site into one file.

    Parameters
    ----------
    folder
        The book's.
    names
        Of the pages, as `pages` gives them.

    Returns
    -------
    Path
        `_build/book.pdf`.

    Raises
    ------
    FileNotFoundError
        If a page was not built.
    RuntimeError
        If there is no browser.
    """
    from pypdf import PdfWriter

    site = folder / "_build" / "html"
    if missing := [name for name in names if not (site / f"{name}.html").is_file()]:
        raise FileNotFoundError(f"The page {missing[0]} was not built: run `make book` first.")
    book = PdfWriter()
    with browser.opened(site) as (chromium, address):
        page = chromium.new_page(viewport={"width": 900, "height": 1200})
        for name in names:
            page.goto(f"{address}{name}.html")
            page.add_style_tag(content=PRINTED)
            page.evaluate(READY)
            page.emulate_media(media="print")
            title = page.title().split(" — ")[0]
            printed = page.pdf(
                format="A4", scale=0.85, margin=dict.fromkeys(("top", "bottom", "left", "right"), "18mm")
            )
            book.append(io.BytesIO(printed), outline_item=title)
    path = folder / "_build" / "book.pdf"
    book.add_metadata({"/Title": "SAMS-VAE, rebuilt and explained", "/Author": "The samslib authors"})
    book.write(path)
    return path


if __name__ == "__main__":
    try:
        path = write(root(), pages(root()))
    except (RuntimeError, FileNotFoundError) as error:
        sys.exit(str(error))
    print(f"Written to {path.relative_to(root())}, {path.stat().st_size / 1e6:.1f} MB.")
