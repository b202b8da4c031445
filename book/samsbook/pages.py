"""The book's own Sphinx extension: outputs of chapters, equations, scripts and docstrings; a page needs no network."""

import html
import itertools
import os
import pkgutil
import re
import shutil
import socket
import subprocess
import textwrap
import time
from enum import Enum
from pathlib import Path
from typing import Any

import bs4
import nbformat
import sphinxcontrib.katex
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinxcontrib.katex import KaTeXServer

from samsbook import outputs, panels, touch


def _show_outputs(app: Sphinx, page: str, source: list[str]) -> None:
    """A chapter's page is its notebook with the outputs that were kept; it is read again when those change."""
    if Path(app.env.doc2path(page)).suffix != ".ipynb":
        return
    kept = outputs.place(Path(app.srcdir), page)
    app.env.note_dependency(str(kept))
    notebook = nbformat.reads(source[0], as_version=4)
    try:
        outputs.merge(notebook, nbformat.read(kept, as_version=4))
    except (FileNotFoundError, ValueError):
        raise ExtensionError(f"{page}.ipynb was not run with the code that it has now: run `make book`.") from None
    for cell in notebook.cells:
        if fold := folded(cell):
            what, words = fold
            cell.metadata.setdefault("tags", []).append(what)
            cell.metadata.setdefault("mystnb", {})["code_prompt_show"] = words
        for output in cell.get("outputs", ()):
            if table := output.get("data", {}).get("text/html"):
                output["data"]["text/html"] = plain_heading(table)
    source[0] = nbformat.writes(notebook)


def plain_heading(table: str) -> str:
    """A data frame's HTML with the names of its index in the row of the columns' names, and no row of empty cells.

    Parameters
    ----------
    table
        HTML that may hold tables of pandas.

    Returns
    -------
    str
        The same, with one heading row less where pandas spends one on the index alone.
    """
    soup = bs4.BeautifulSoup(table, "html.parser")
    for head in soup.find_all("thead"):
        lines = head.find_all("tr")
        rows = [line.find_all("th") for line in lines]
        names = [cell for cell in rows[-1] if cell.get_text(strip=True)]
        if len(rows) > 1 and 0 < len(names) < len(rows[-1]) and names == rows[-1][: len(names)]:
            for cell, name in zip(rows[-2], names, strict=False):
                cell.string = name.get_text(strip=True)
            lines[-1].decompose()
        for cell in head.find_all("th"):
            if not cell.get_text(strip=True):
                cell.name = "td"
    return str(soup)


PLUMBING = re.compile(r"\bplotting\.|\bcheck_parameters\(|\bwrite_results\(")
SET_UP = re.compile(r"(import|from) |pd\.set_option|plotting\.use_style|torch\.set_|warnings\.|logging\.|#|[)\]]|    ")


def folded(cell: nbformat.NotebookNode) -> tuple[str, str] | None:
    """Whether a reader of the page need not see a cell's code at once.

    Parameters
    ----------
    cell
        Of a notebook.

    Returns
    -------
    tuple
        The tag that folds it, and the words to unfold it by; None for a cell that stays open. Folded are imports,
        parameters and their check, the training that a parameter file repeats, drawing and writing, and with its table
        where a recorded result comes from. A mirror cell is to be read, and stays open.
    """
    if cell.cell_type != "code":
        return None
    tags = cell.metadata.get("tags", [])
    if "provenance_table(" in cell.source:
        return "hide-cell", "Where these numbers come from"
    lines = [line for line in cell.source.splitlines() if line.strip()]
    plumbing = "parameters" in tags or "training" in tags or PLUMBING.search(cell.source)
    if "mirror" not in tags and (plumbing or all(map(SET_UP.match, lines))):
        return "hide-input", "Show the parameters" if "parameters" in tags else "Show code"
    return None


def _write_all(app: Sphinx, env) -> set[str]:
    """Pages are read when they change, but all are written, since titles stand in the contents of each: a matter of
    seconds, and a reference from an unchanged page that leads nowhere is told again."""
    return set() if os.environ.get("SAMSBOOK_QUICK") else env.found_docs


def _typeset_here(app: Sphinx, config) -> None:
    """Equations are set while building if there is Node, else in the browser by a bundled script."""
    config.katex_prerender = shutil.which("node") is not None
    sphinxcontrib.katex.STARTUP_TIMEOUT = sphinxcontrib.katex.RENDER_TIMEOUT = 120  # seconds, for a busy machine
    KaTeXServer.start_server_process = _start_katex


def _start_katex(folder: Path, timeout: float) -> tuple[subprocess.Popen, socket.socket]:
    """Node's renderer and a connection to it, tried until it answers: its socket is there before it listens."""
    place = folder / "katex.sock"
    command = KaTeXServer.build_command(socket=place)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
    deadline = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(place))
            return process, connection
        except OSError:
            connection.close()
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.01)


def _drop_thebe(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Nothing runs in the browser, so Thebe goes: it declares a constant twice and names an address."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in f"{getattr(script, 'filename', '')}{getattr(script, 'attributes', '')}".lower()
    ]


def _lift_asides(app: Sphinx, doctree: nodes.document) -> None:
    """A note for the margin is written after the paragraph that it belongs to, and floats beside it only if it comes
    before."""
    for note in list(doctree.findall(nodes.sidebar)):
        place = note.parent.index(note)
        if "margin" in note["classes"] and place and isinstance(note.parent[place - 1], nodes.paragraph):
            paragraph = note.parent[place - 1]
            note.parent[place - 1 : place + 1] = [note, paragraph]


def _point_to_repository(app: Sphinx, config) -> None:
    """With the repository's address in _config.yml, pages get buttons for it, for Colab and for Binder; else none."""
    theme = config.html_theme_options
    known = bool(theme.get("repository_url"))
    theme |= dict.fromkeys(("use_repository_button", "use_edit_page_button", "use_issues_button"), known)
    hosts = {"colab_url": "https://colab.research.google.com", "binderhub_url": "https://mybinder.org"}
    theme["launch_buttons"] = hosts | {"notebook_interface": "jupyterlab"} if known else {}


NOTEBOOKS = "notebooks"  # the branch of chapters as they are downloaded; .github/workflows/pages.yml pushes it


def _open_what_installs(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """Colab comes without the library: it opens a chapter as it is downloaded, which begins by installing it."""
    branch = app.config.html_theme_options.get("repository_branch")
    for button in (one for group in context.get("header_buttons", ()) for one in group.get("buttons", ())):
        if button["text"] == "Colab":
            button["url"] = button["url"].replace(f"/blob/{branch}/", f"/blob/{NOTEBOOKS}/")


def _describe(app: Sphinx, page: str, template: str, context: dict, doctree) -> None:
    """A page's first words as its description, and what a link to it shows where it is shared."""
    if doctree is None:
        return
    told = (node.astext() for node in doctree.findall(nodes.paragraph))
    words = textwrap.shorten(next(filter(None, told), context["title"]), 200, placeholder=" ...")
    title = re.sub("<[^>]*>", "", context["title"])
    tags = {"description": words, "og:title": html.unescape(title), "og:description": words, "og:type": "article"}
    if app.config.html_baseurl:
        tags["og:url"] = app.config.html_baseurl.rstrip("/") + f"/{page}.html"
    names = ("property" if name.startswith("og:") else "name" for name in tags)
    context["metatags"] += "".join(
        f'\n<meta {kind}="{name}" content="{html.escape(text)}">'
        for kind, (name, text) in zip(names, tags.items(), strict=True)
    )


def _escaped(line: str) -> str:
    """Outside `code`, what rST would read as markup is text."""
    pieces = re.split(r"(`+[^`]+`+)", line)
    for i, piece in enumerate(pieces):
        is_code = i % 2
        pieces[i] = f"``{piece.strip('`')}``" if is_code else re.sub(r"([*|](?=\S)|[\\`]|_(?!\w))", r"\\\1", piece)
    return "".join(pieces)


def _plain_docstring(app: Sphinx, kind: str, name: str, thing, options, lines: list[str]) -> None:
    """Text before the NumPy sections is plain: lines are kept where they indent, as in an equation. Napoleon reads the
    sections."""
    underlined = (i for i, line in enumerate(lines) if re.fullmatch(r" *-{3,} *", line))
    end = next(underlined, len(lines) + 1) - 1
    written = []
    for filled, paragraph in itertools.groupby(lines[:end], lambda line: bool(line.strip())):
        if not filled:
            written.append("")
            continue
        part = list(paragraph)
        as_written = any(line.startswith((" ", "- ", "* ", ">>> ")) for line in part)
        for line in part:
            text = line.strip()
            indent = line[: line.index(text)] if as_written else ""
            written.append(f"| {indent}{_escaped(text)}" if as_written else _escaped(text))
    lines[:] = [*written, "", *map(_escaped, lines[end:])]


def documented(folder: Path) -> dict[str, list[str]]:
    """Which modules of the library each page of the reference documents.

    Parameters
    ----------
    folder
        The folder of the pages, each with one directive `.. modules:: name ...`. A package stands for all its modules;
        the page that names nothing has what the others leave out.

    Returns
    -------
    dict
        From the name of a page, without its suffix, to its modules.

    Raises
    ------
    ValueError
        If there is no module of a name.
    """
    import samslib  # here, for most builds do not document it again

    known = [m.name for m in pkgutil.walk_packages(samslib.__path__, "samslib.") if not m.name.endswith("__main__")]

    def within(name: str) -> list[str]:
        if found := [module for module in known if f"{module}.".startswith(f"samslib.{name}.")]:
            return found
        raise ValueError(f"samslib has no module {name!r}; mend the list of modules on the page.")

    asked = {page.stem: re.findall(r"^\.\. modules::(.*)$", page.read_text(), re.M) for page in folder.glob("*.md")}
    rooms = {page: [m for name in " ".join(names).split() for m in within(name)] for page, names in asked.items()}
    named = {module for room in rooms.values() for module in room}
    left = [module for module in known if module not in named]
    return {page: room or left for page, room in rooms.items()}


class _Modules(SphinxDirective):
    """Modules of the library, each from its own documentation; see `documented`."""

    optional_arguments, final_argument_whitespace = 1, True

    def run(self) -> list[nodes.Node]:
        page = Path(self.env.doc2path(self.env.docname))
        names = documented(page.parent)[page.stem]
        shown = nodes.Element()
        lines = [line for name in names for line in (f".. rubric:: {name}", "", f".. automodule:: {name}", "")]
        self.state.nested_parse(StringList(lines, "modules"), 0, shown)
        return shown.children


def _carry_reports(app: Sphinx, error: Exception | None) -> None:
    """Recorded reports are pages of their own: they lie in the book where they lie in its folder."""
    if reports := list((Path(app.srcdir) / "book" / "reports").glob("*.html")):
        place = Path(app.outdir) / "book" / "reports"
        place.mkdir(parents=True, exist_ok=True)
        for path in reports:
            shutil.copy(path, place)


def _hide_call(app: Sphinx, what: str, name: str, thing: Any, *_: Any) -> tuple[str, None] | None:
    """An enumeration is not called; Python would show the call of every one."""
    return ("", None) if what == "class" and issubclass(thing, Enum) else None


def setup(app: Sphinx) -> dict:
    app.add_directive("modules", _Modules)
    app.add_directive("touch", touch.Touch)
    app.connect("source-read", _show_outputs)
    app.connect("doctree-read", _lift_asides)
    app.connect("doctree-read", panels.cut_figures, priority=400)  # before Sphinx collects the pictures
    app.connect("env-get-updated", _write_all)
    app.connect("config-inited", _typeset_here)
    app.connect("config-inited", _point_to_repository)
    app.connect("build-finished", _carry_reports)
    app.connect("html-page-context", _drop_thebe, priority=900)
    app.connect("html-page-context", _open_what_installs, priority=900)  # after the theme made its buttons
    app.connect("html-page-context", _describe)
    app.connect("autodoc-process-docstring", _plain_docstring, priority=400)  # before Napoleon
    app.connect("autodoc-process-signature", _hide_call)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
