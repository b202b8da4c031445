"""Begin a chapter: a notebook with the parts that every chapter has, and its line in the table of contents.

python -m samsbook.new_chapter 10_my_chapter
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from samsbook.results import root

PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "markdown",
        "# {title}\n\n- **Goals.** After this chapter you can do one thing, and say when it fails.\n"
        "- **Time.** About 30 minutes to read; the code runs in about a minute.\n"
        "- **Needs.** {{doc}}`/chapters/01_generative_model`. Symbols are in {{doc}}`/book/notation`.\n\n"
        "**What this chapter shows.** One question, and how it is answered.",
        (),
    ),
    ("code", "import samsbook\n\nimport samslib\nfrom samslib import plotting\n\nplotting.use_style()", ()),
    ("code", "steps: int = 200  # of training\nseed: int = 0  # of all that is drawn", ("parameters",)),
    (
        "code",
        "parameters = samsbook.check_parameters(globals(), steps=(1, None))\n"
        'data = samslib.PerturbationData.from_anndata(samslib.datasets.load("sams-pairs"))\n'
        "train, val, test = data.split(samslib.splits.random(seed=seed))",
        (),
    ),
    ("markdown", "## The idea\n\nProse, an equation, a short cell, a picture.", ()),
    (
        "code",
        "model = samslib.SAMSVAE(data.summary(train), seed=seed)\n"
        "config = samslib.FitConfig(steps=steps, seed=seed, progress=False)\n"
        "history = samslib.fit(model, train, val, config)\n"
        "history.tail(1).round(2)",
        (),
    ),
    (
        "markdown",
        "## Summary\n\n- What was shown.\n\n**Reproduced here:** .\n**Not reproduced here:** .\n\n"
        "### Check yourself\n\n**Question {number}.1.** A question.\n\n```{{dropdown}} Answer\nIts answer.\n```\n\n"
        "### Further reading\n\n- {{cite:t}}`bereket2023sams`: what it is good for.",
        (),
    ),
    (
        "markdown",
        "## Exercises\n\n**Exercise {number}.1 (run).** A question.\n\n```{{dropdown}} Solution\nIts answer.\n```",
        (),
    ),
)


def begin(name: str, folder: Path) -> Path:
    """Write the notebook of a new chapter and its line in `_toc.yml`.

    Parameters
    ----------
    name
        Such as "10_my_chapter": a number of two digits and words joined by underscores.
    folder
        The book's.

    Returns
    -------
    Path
        The notebook.

    Raises
    ------
    ValueError
        For another form of name, a number or chapter that is there, and contents without chapters.
    """
    import nbformat

    if not (match := re.fullmatch(r"(\d\d)_([a-z0-9]+(?:_[a-z0-9]+)*)", name)):
        raise ValueError(f"{name!r} is no name of a chapter; give one such as 10_my_chapter.")
    if there := sorted(folder.glob(f"chapters/{match[1]}_*.ipynb")):
        raise ValueError(f"{there[0].name} has the number {match[1]}; give another.")
    toc = folder / "_toc.yml"
    contents = toc.read_text(encoding="utf-8")
    lines = [line for line in contents.splitlines() if "file: chapters/" in line]
    if not lines:
        raise ValueError("_toc.yml lists no chapter after which a new one could stand.")
    words = {"title": match[2].replace("_", " ").capitalize(), "number": str(int(match[1]))}
    cells = []
    for i, (kind, text, tags) in enumerate(PARTS):
        cell = getattr(nbformat.v4, f"new_{kind}_cell")(text.format(**words) if kind == "markdown" else text, id=str(i))
        cell.metadata.update({"tags": list(tags)} if tags else {})
        cells.append(cell)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = folder / "chapters" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    line = re.sub(r"chapters/\S+", f"chapters/{name}", lines[-1])  # with its indentation
    toc.write_text(contents.replace(lines[-1], f"{lines[-1]}\n{line}", 1), encoding="utf-8")
    return path


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="such as 10_my_chapter")
    try:
        path = begin(parser.parse_args().name, root())
    except ValueError as error:
        parser.error(str(error))
    print(f"Written to {path.relative_to(root())}, last among the chapters in _toc.yml. See it with `make serve`.")


if __name__ == "__main__":
    main()
