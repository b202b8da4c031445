"""Figures to touch: `book/assets/touch.js` lets a reader change their numbers, and a still picture stands for them.

python -m samsbook.touch    draws the still pictures into book/assets/touch again; it needs Node

In a page, `{touch} name` with an alt text and a caption. Without a script, or on a slide, the still picture is seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.directives.patches import Figure

from samsbook.results import read_results, root

SCRIPT, SCREEN, PICTURES = "book/assets/touch.js", "book/assets/touch-screen.js", "book/assets/touch"
STILLS = """const { FIGURES, still } = require(process.argv[1]);
console.log(JSON.stringify(Object.fromEntries(Object.keys(FIGURES).map((name) => [name, still(name).svg]))));"""


class Touch(Figure):
    """A figure of the script by its name, with an alt text and a caption."""

    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if not Path(self.state.document.settings.env.srcdir, PICTURES, f"{name}.svg").is_file():
            raise self.error(f"There is no figure to touch {name!r}; run `python -m samsbook.touch` after adding it.")
        if not self.options.get("alt") or not self.content:
            raise self.error(f"Give the figure to touch {name!r} an :alt: and a caption.")
        self.arguments[0] = f"/{PICTURES}/{name}.svg"
        self.options |= {"figclass": ["touch"], "name": f"touch-{name}"}
        return super().run()


def screen(most: int = 5) -> dict[str, list[tuple[str, float, float]]]:
    """Of each target of the recorded real screen, the genes that change most.

    Parameters
    ----------
    most
        Number of genes.

    Returns
    -------
    dict
        From the target to gene, effect of SAMS-VAE and effect in held-out cells, means over the splits.
    """
    table = read_results("screen-tapseq-effects").groupby(["target", "gene"])[["model", "cells"]].mean().round(3)
    found = {}
    for target, rows in table.groupby("target"):
        strongest = rows.loc[rows.abs().max(axis=1).nlargest(most).index].droplevel("target")
        first = strongest["cells"].abs().sort_values(ascending=False).index
        at = strongest.loc[first]
        found[str(target)] = list(zip(map(str, first), at["model"].tolist(), at["cells"].tolist(), strict=True))
    return found


def stills() -> dict[str, str]:
    """The still picture of each figure of the script, as SVG, by name.

    Raises
    ------
    FileNotFoundError
        If there is no Node.
    """
    command = ["node", "-e", STILLS, str(root() / SCRIPT)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def write_screen() -> None:
    """Write the recorded effects where the script reads them."""
    rows = ",\n".join(f"{json.dumps(target)}: {json.dumps(rows)}" for target, rows in screen().items())
    end = 'if (typeof module === "object") module.exports = globalThis.TOUCH_SCREEN;'
    text = f"globalThis.TOUCH_SCREEN = {{\n{rows}\n}};\n{end}\n"
    (root() / SCREEN).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_screen()
    try:
        drawn = stills()
    except FileNotFoundError:
        sys.exit("There is no Node to run the script; install it, or draw the pictures on a machine that has it.")
    for name, svg in drawn.items():
        (root() / PICTURES / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")
    print(f"{len(drawn)} pictures in {PICTURES}.")
