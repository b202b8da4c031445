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

from samsbook.results import root

SCRIPT, PICTURES = "book/assets/touch.js", "book/assets/touch"
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


def stills() -> dict[str, str]:
    """The still picture of each figure of the script, as SVG, by name.

    Raises
    ------
    FileNotFoundError
        If there is no Node.
    """
    command = ["node", "-e", STILLS, str(root() / SCRIPT)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    try:
        drawn = stills()
    except FileNotFoundError:
        sys.exit("There is no Node to run the script; install it, or draw the pictures on a machine that has it.")
    for name, svg in drawn.items():
        (root() / PICTURES / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")
    print(f"{len(drawn)} pictures in {PICTURES}.")
