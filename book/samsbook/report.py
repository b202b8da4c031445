"""A report on cells of one's own: chapter 9 run on a file, as one page of HTML that holds its figures."""

from __future__ import annotations

import re
from pathlib import Path

from samsbook.parameters import ParameterError
from samsbook.results import root

CHAPTER = "chapters/09_your_own_data.ipynb"
COLUMNS = {  # parameters of the chapter that have an option of their own
    "perturbation": "column of obs that says what a cell received",
    "control": "label of control cells; several with a semicolon between",
    "target": "column of obs with the gene of each guide; empty: there are no guides",
    "separator": "text between the parts of a combination; empty: names are never split",
    "within": "column of obs, such as the batch, within whose levels cells are compared",
    "save_to": "folder for the model and the tables",
}


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
    # The page runs in its own folder. Without guides or batches in the call there are none: its defaults are of its
    # own simulated cells.
    where = {"adata_path": str(adata.resolve()), "target": "", "steps": "0", "resamples": "2000"} | given
    return where | ({"save_to": str(Path(where["save_to"]).resolve())} if where.get("save_to") else {})


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
    from nbconvert import HTMLExporter

    page = nbformat.read(notebook, as_version=4)
    for cell in page.cells:
        if cell.cell_type == "markdown":  # roles are of the book, whose other pages are not here
            cell.source = re.sub(r"\{\w+(?::\w+)?\}`([^`]*)`", r"\1", cell.source)
        else:  # progress and warnings of libraries are no part of a report
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    exporter = HTMLExporter(template_name="lab", exclude_input=True, exclude_output_prompt=True, embed_images=True)
    exporter.require_js_url = exporter.jquery_url = exporter.mathjax_url = exporter.mermaid_js_url = ""
    html, _ = exporter.from_notebook_node(page, {"metadata": {"name": output.stem}})
    html = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)  # nothing of it is needed to read
    output.write_text(html, encoding="utf-8")
    return output
