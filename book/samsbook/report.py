"""A report on cells of one's own: chapter 9 run on a file, as one page of HTML that holds its figures.

Cells of the chapter with the tag "book" are not in the report; what a cell with the tag "first" shows stands at its
beginning.
"""

from __future__ import annotations

import base64
import html
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samsbook.parameters import ParameterError
from samsbook.results import root

CHAPTER = "chapters/09_your_own_data.ipynb"
COLUMNS = {  # parameters of the chapter that have an option of their own
    "perturbation": "column of obs that says what a cell received",
    "control": "label of control cells; several with a semicolon between, or a pattern such as 'NT*'",
    "target": "column of obs with the gene of each guide, or signs such as _ that end it in the guide's name",
    "separator": "text between the parts of a combination; empty: names are never split",
    "within": "column of obs, such as the batch, within whose levels cells are compared",
    "layer": "layer that holds the raw counts; empty: X",
    "gmt": "file of gene sets (GMT) in which the genes of axes are looked up",
    "save_to": "folder for the model and the tables",
}
PATHS = ("adata_path", "save_to", "gmt")  # parameters that are paths
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-top: 1px solid #ddd; padding-top: 1rem; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: .9rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0; }
th, td { padding: .25rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; } td { max-width: 30rem; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
@media (max-width: 40rem) {
  table { width: max-content; } th, td { padding: .25rem .4rem; } th { max-width: 6rem; } td { max-width: 9.5rem; }
}
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .6rem .8rem; font-size: .85rem; }
code { background: #f2f2f2; }
"""


def chapter() -> Path:
    """The notebook that reports."""
    return root() / CHAPTER


def asked(adata: Path, columns: dict[str, str | None]) -> dict[str, str]:
    """Parameters of the chapter, from the file and the options of the command line.

    Parameters
    ----------
    adata
        An .h5ad file.
    columns
        Option -> what was given for it; None for nothing.

    Raises
    ------
    ParameterError
        Where there is no such file.
    """
    if not adata.is_file():
        raise ParameterError(f"There is no file {adata}; give the .h5ad file that holds the cells.")
    given = {name: value for name, value in columns.items() if value is not None}
    # Without guides or batches in the call there are none: the chapter's defaults are of its own simulated cells.
    where = {"adata_path": str(adata), "control": "control", "target": "", "steps": "0"}
    where |= {"resamples": "2000", "shown": "1000"} | given
    return absolute(where)


def absolute(given: dict[str, Any]) -> dict[str, Any]:
    """Parameters whose paths are those of the caller, for a chapter that runs in its own folder."""
    return given | {name: str(Path(given[name]).resolve()) for name in PATHS if given.get(name)}


def progress(sections: dict[str, str]) -> Callable[..., None]:
    """What prints a line for each section of the chapter when it begins, for `on_cell_start` of nbclient.

    Parameters
    ----------
    sections
        Id of a cell -> the heading that it stands under, as of `headings`.
    """
    start = time.perf_counter()

    def line(cell: Any, cell_index: int) -> None:
        if cell.get("id") in sections:
            print(f"{time.perf_counter() - start:4.0f} s  {sections[cell.id]}", flush=True)

    return line


def headings(notebook: Any) -> dict[str, str]:
    """Id of the first code cell of each section -> its heading."""
    found, heading = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("## ")), heading)
        elif heading:
            found[cell.id], heading = heading, ""
    return found


def write(notebook: Path, output: Path) -> Path:
    """A run notebook as one page of HTML, without code.

    Parameters
    ----------
    notebook
        With its outputs.
    output
        The file to write.
    """
    import nbformat

    page = nbformat.read(notebook, as_version=4)
    cells = [cell for cell in page.cells if "book" not in cell.metadata.get("tags", [])]
    first = [cell for cell in cells if "first" in cell.metadata.get("tags", [])]
    title = html.escape(f"Report on {output.stem}")
    body = "\n".join(_shown(cell) for cell in [*first, *(cell for cell in cells if cell not in first)])
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    text = f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}'
    output.write_text(f"{text}\n</body></html>\n", encoding="utf-8")
    return output


def _shown(cell: Any) -> str:
    """Prose, or what a cell of code showed; progress and warnings of libraries are no part of a report."""
    from nbconvert.filters import markdown2html

    if cell.cell_type == "markdown":  # roles are of the book, whose other pages are not here
        prose = markdown2html(re.sub(r"\{\w+(?::\w+)?\}`([^`]*)`", r"\1", cell.source))
        return re.sub(r'<a class="anchor-link".*?</a>', "", prose)
    return "\n".join(_output(out, cell) for out in cell.outputs if out.get("name") != "stderr")


def _output(out: Any, cell: Any) -> str:
    data = out.get("data", {})
    if kind := next((kind for kind in ("image/svg+xml", "image/png") if kind in data), None):
        drawn = data[kind].strip()
        if kind == "image/svg+xml":  # as a picture of its own: inside the page, its names would meet another's
            drawn = base64.b64encode(drawn.encode()).decode()
        shown = cell.metadata.get("mystnb", {})
        alt, caption = (shown.get(of, {}).get(key, "") for of, key in (("image", "alt"), ("figure", "caption")))
        image = f'<img alt="{html.escape(alt)}" src="data:{kind};base64,{drawn}">'
        return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"
    if "text/html" in data:
        table = re.sub(r"<style scoped>.*?</style>", "", data["text/html"], flags=re.DOTALL).replace(' border="1"', "")
        return f'<div class="scroll">{table}</div>'
    text = out.get("text") or data.get("text/plain", "")
    return f"<pre>{html.escape(text)}</pre>" if text.strip() else ""
