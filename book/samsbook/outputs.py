"""Chapters' outputs, in _build/executed: `samsbook.build` runs the code and keeps them, `samsbook.pages` shows them.

Jupyter Book itself runs nothing (`execute_notebooks: "off"` in _config.yml). It could, and has a cache of its own for
that, but this cache does not know of the library and the data, and what it does not find it runs without a word. Here
a page whose outputs are missing is an error, and there is one place that starts a kernel.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat import NotebookNode


def place(root: Path, chapter: str) -> Path:
    """Where the outputs of a chapter are kept: its notebook as it was run.

    Parameters
    ----------
    root
        Folder of the book.
    chapter
        Name of the chapter's page, such as "chapters/02_inference".

    Returns
    -------
    Path
        The file.
    """
    return root / "_build" / "executed" / f"{chapter}.ipynb"


def keep(executed: NotebookNode, path: Path, inputs: str) -> None:
    """Write an executed notebook, whole or not at all.

    Parameters
    ----------
    executed
        The notebook as it was run; the checksum is put into its metadata.
    path
        Where to write.
    inputs
        Checksum of what its code read besides itself.
    """
    executed.metadata["inputs"] = inputs
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    nbformat.write(executed, partial)
    partial.replace(path)


def current(path: Path, notebook: NotebookNode, inputs: str) -> bool:
    """Whether a file holds what the code of a notebook gives with these inputs, whatever became of its prose.

    Parameters
    ----------
    path
        The file of kept outputs, which need not exist.
    notebook
        The notebook as it is now.
    inputs
        Checksum of what its code reads besides itself.

    Returns
    -------
    bool
        True if code and inputs are the same.
    """
    if not path.is_file():
        return False
    executed = nbformat.read(path, as_version=4)
    return executed.metadata.get("inputs") == inputs and _code(executed) == _code(notebook)


def merge(notebook: NotebookNode, executed: NotebookNode) -> None:
    """Give the code cells of a notebook the outputs that they have in another; prose, captions and tags stay.

    Parameters
    ----------
    notebook
        The notebook that gets the outputs.
    executed
        The same as it was run.

    Raises
    ------
    ValueError
        If the two differ in their code.
    """
    if _code(notebook) != _code(executed):
        raise ValueError("the outputs are of other code")
    kept = {key: executed.metadata[key] for key in ("language_info", "widgets") if key in executed.metadata}
    notebook.metadata.update(kept)
    for cell, ran in zip(_code_cells(notebook), _code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count


def _code(notebook: NotebookNode) -> list[tuple[str, list[str]]]:
    """What decides the outputs: sources, and tags, which can let a cell fail or be skipped."""
    return [(cell.source, cell.metadata.get("tags", [])) for cell in _code_cells(notebook)]


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
