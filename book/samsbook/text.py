"""A notebook as plain text, which `make diff` compares: prose and code by cell, without the file's own marks.

python -m samsbook.text chapters/01_generative_model.ipynb
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def text(notebook: Path) -> str:
    """The cells of a notebook, each under a line with its kind, number and tags.

    Parameters
    ----------
    notebook
        The file.

    Returns
    -------
    str
        Its text; that of the file itself if it is no notebook.
    """
    raw = notebook.read_text(encoding="utf-8")
    try:
        cells = json.loads(raw)["cells"]
    except (ValueError, KeyError, TypeError):
        return raw
    parts = []
    for i, cell in enumerate(cells):
        tags = "".join(f" [{tag}]" for tag in cell["metadata"].get("tags", ()))
        caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption")
        below = f"\n\nCaption: {caption}" if caption else ""
        parts.append(f"=== {i} {cell['cell_type']}{tags}\n{''.join(cell['source'])}{below}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(text(Path(sys.argv[1])))
