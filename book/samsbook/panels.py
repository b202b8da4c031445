"""Figures of several panels, cut into one picture a panel, which a narrow page puts below each other."""

from __future__ import annotations

import copy
from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from sphinx.application import Sphinx

SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PLACES = ["left-panel", "right-panel"]  # what captions call two of them, also where they stand below each other


def panels(svg: str) -> list[str]:
    """The panels of a figure, each as a picture of its own.

    Parameters
    ----------
    svg
        A figure by Matplotlib. Its panels are subfigures of equal width, as `samslib.plotting.axes` makes them.

    Returns
    -------
    list of str
        One SVG a panel; a figure without subfigures is its only panel.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    whole = ElementTree.fromstring(svg)
    count = len(_parts(whole))
    if count < 2:
        return [svg]
    width, height = (float(whole.get(side, "").removesuffix("pt")) for side in ("width", "height"))
    made = []
    for i in range(count):
        one = copy.deepcopy(whole)
        for j, (parent, part) in enumerate(_parts(one)):
            if j != i:  # what it defines, such as a marker, may be drawn by another
                parent.remove(part)
                one.extend(part.iter(f"{{{SVG}}}defs"))
        one.set("width", f"{width / count:g}pt")
        one.set("viewBox", f"{i * width / count:g} 0 {width / count:g} {height:g}")
        made.append(ElementTree.tostring(one, encoding="unicode"))
    return made


def _parts(figure: ElementTree.Element) -> list[tuple[ElementTree.Element, ElementTree.Element]]:
    """The subfigures, each with the element that holds it."""
    return [(up, g) for up in figure.iter() for g in up if g.get("id", "").startswith("subfigure_")]


def cut_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Put the panels of each figure of a page in its place, in a row that may break."""
    for picture in list(doctree.findall(nodes.image)):
        path = Path(app.srcdir) / picture["uri"].lstrip("/")
        if path.suffix != ".svg" or "jupyter_execute" not in path.parts:
            continue
        made = panels(path.read_text(encoding="utf-8"))
        if len(made) < 2:
            continue
        row = nodes.container(classes=["panels"])
        for i, svg in enumerate(made, start=1):
            path.with_name(f"{path.stem}-{i}.svg").write_text(svg, encoding="utf-8")
            one = picture.copy()
            one["uri"] = picture["uri"].replace(path.name, f"{path.stem}-{i}.svg")
            one["alt"] = picture.get("alt", "") if i == 1 else f"Panel {i} of {len(made)} of the same figure."
            row += nodes.container("", one, classes=PLACES[i - 1 : i] if len(made) == 2 else [])
        picture.replace_self(row)
