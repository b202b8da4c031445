"""Run the chapters whose code changed, build the pages, check them. `make book` calls this.

python -m samsbook.build                      run what changed, read the pages that changed, write them all
python -m samsbook.build --full               read every page again, so that every warning is seen again
python -m samsbook.build --quick              write only the pages that changed, unchecked: for `make serve`
python -m samsbook.build --executed FOLDER    take the chapters as they were run there, and read every page again
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

# What takes long to import is imported where it is used: most calls find that nothing changed.

ROOT = Path(__file__).resolve().parents[2]
HELPERS = "__init__ artifacts compare doses own parameters probes published results transfer unseen".split()
INPUTS = (
    *("samslib/**/*.py", "samslib/**/*.toml", "data/**/*", "constraints.txt"),  # of the chapters' code
    *(f"book/samsbook/{name}.py" for name in HELPERS),
)
SOURCES = ("_*.yml", "book/**/*", "chapters/*", *INPUTS)
QUICK = "written quickly"  # in the stamp of a build whose pages are not checked
PAGE = re.compile(r"book/.*\.md|chapters/.*\.ipynb")


class ChapterError(RuntimeError):
    """A chapter did not run to its end."""


def checksums(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """The sha256 of each file that matches, by its name relative to the root."""
    paths = {path for pattern in patterns for path in root.glob(pattern) if "__pycache__" not in path.parts}
    read = {path: hashlib.sha256(path.read_bytes()) for path in sorted(paths) if path.is_file()}
    return {path.relative_to(root).as_posix(): digest.hexdigest() for path, digest in read.items()}


def chapters(root: Path) -> list[str]:
    """The notebooks of the table of contents, in order, without their suffix."""
    import yaml

    toc = yaml.safe_load((root / "_toc.yml").read_text())
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [name for name in files if name.startswith("chapters/")]


def execute(path: Path):
    """Run a notebook.

    Parameters
    ----------
    path
        The notebook; it runs in its own folder.

    Returns
    -------
    NotebookNode
        The notebook with its outputs.

    Raises
    ------
    ChapterError
        If a cell fails, with what it raised and its traceback; if the kernel dies or there is none.
    """
    import nbformat
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    notebook = nbformat.read(path, as_version=4)
    where, quiet = {"metadata": {"path": str(path.parent)}}, ["--log-level=ERROR"]
    try:
        return NotebookClient(notebook, timeout=600, resources=where, extra_arguments=quiet).execute()
    except (CellControlSignal, DeadKernelError) as error:
        raise ChapterError(f"{error}\n{path.name} failed as told above: mend it, then run `make book` again.") from None
    except NoSuchKernel as error:
        from samsbook.parameters import no_kernel

        raise ChapterError(no_kernel(error.name)) from None


def run_chapters(root: Path, executed: Path | None) -> None:
    """Keep each chapter's outputs for its page, and run only the chapters whose outputs are not current.

    They are when code cells, library, data and pins are what they were when the chapter ran. Raises ChapterError.
    """
    import nbformat

    from samsbook import outputs

    inputs = hashlib.sha256(json.dumps(checksums(root, INPUTS)).encode()).hexdigest()
    names = chapters(root)
    for i, name in enumerate(names, start=1):
        path, kept = root / f"{name}.ipynb", outputs.place(root, name)
        print(f"[{i}/{len(names)}] {name}.ipynb ... ", end="", flush=True)
        start = time.perf_counter()
        if executed is not None:
            outputs.keep(nbformat.read(executed / path.name, as_version=4), kept, inputs)
            print("as tested", flush=True)
        elif outputs.current(kept, nbformat.read(path, as_version=4), inputs):
            print("unchanged", flush=True)
        else:
            outputs.keep(execute(path), kept, inputs)
            print(f"{time.perf_counter() - start:.0f} s", flush=True)


def unshown(root: Path) -> list[str]:
    """One line a number in the prose of a chapter that the chapter, as it ran, does not show; see `samsbook.said`."""
    import nbformat

    from samsbook import outputs, said

    found = []
    for name in chapters(root):
        if not (kept := outputs.place(root, name)).is_file():  # which its page will tell
            continue
        notebook = nbformat.read(root / f"{name}.ipynb", as_version=4)
        outputs.merge(notebook, nbformat.read(kept, as_version=4))
        found += [f"{name}.ipynb, {why}" for why in said.unshown(notebook, root)]
    if found:
        found.append("Print it in its section, drop it, or name its source in the metadata of the cell, under `said`.")
    return found


def build_pages(root: Path, changed: Iterable[str] | None, quick: bool = False) -> list[str]:
    """Read the pages that changed, write all, and check the site.

    Parameters
    ----------
    root
        The book's folder.
    changed
        Paths of the pages to read again; None: all.
    quick
        Whether other pages stay as they are, also where they name the changed ones, and the site is not checked.

    Returns
    -------
    list
        One line a defect.
    """
    from samsbook.check_html import problems

    build = root / "_build"
    site, doctrees, log_file = build / "html", build / ".doctrees", build / "book.log"
    if changed is None:
        shutil.rmtree(site, ignore_errors=True)
        shutil.rmtree(doctrees, ignore_errors=True)
    for page in changed or ():  # by content, for Sphinx itself goes by time: it reads what has no doctree
        (doctrees / page).with_suffix(".doctree").unlink(missing_ok=True)
    tool = Path(sys.executable).with_name("jupyter-book")
    command = [str(tool), "build", str(root), "-W", "-n", "--keep-going"]
    print("Building the pages ... ", end="", flush=True)
    start = time.perf_counter()
    build.mkdir(exist_ok=True)
    with log_file.open("w") as log:  # a file: what typesets equations may outlive a failed build and hold a pipe
        environment = os.environ | ({"SAMSBOOK_QUICK": "1"} if quick else {})
        done = subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=False
        )
        status = done.returncode
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    if status == 0:
        for written in site.rglob("*.html"):
            written.write_text(one_viewport(written.read_text(encoding="utf-8")), encoding="utf-8")
        write_front(root)
        for notebook in site.glob("_sources/chapters/*.ipynb"):  # as it is downloaded from a page
            say_how_to_install(notebook, root)
        return [] if quick else problems(site)
    said = re.sub(r"\x1b\[[0-9;]*m", "", log_file.read_text()).splitlines()
    telling = re.compile(r"WARNING|ERROR|^[\w.]+(Error|Exception): \S")
    found = [line.replace(f"{root}/", "") for line in said if telling.search(line)]
    return [*dict.fromkeys(found)] + ["All that was said is in _build/book.log."]


def write_front(root: Path) -> None:
    """Say on the front page when and from what it was built, and make it the site's index too, a page and no detour."""
    from samslib import __version__

    site = root / "_build" / "html"
    front = site / "book" / "introduction.html"
    if not front.is_file():  # a book of other pages
        return
    asked = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    when = f"Built on {datetime.date.today():%d %B %Y} from version {__version__}"
    said = f'<span class="built">{when}{f", commit {commit}" if commit else ""}.</span>'
    text = re.sub(r'<span class="built">.*?</span>', said, front.read_text(encoding="utf-8"), flags=re.DOTALL)
    front.write_text(text, encoding="utf-8")
    (site / "index.html").write_text(from_above(text, "book"), encoding="utf-8")


def from_above(page: str, folder: str) -> str:
    """A page of a folder as it reads from the folder above: every relative address is written anew."""

    def moved(match: re.Match[str]) -> str:
        name, address = match.groups()
        if re.match(r"[a-z]+:|//|#", address):
            return match[0]
        new = address.removeprefix("../") if address.startswith("../") else f"{folder}/{address}"
        return f'{name}="{new}"'

    page = re.sub(r'\b(href|src|action)="([^"]*)"', moved, page)
    return page.replace('data-content_root="../"', 'data-content_root="./"')


INSTALL = """\
# Where the library is missing, as in Colab: fetch the book, install what its chapters need, and work in its folder.
from importlib.util import find_spec
from pathlib import Path

if find_spec("samslib") is None:
    !git clone -q --depth 1 --branch {branch} {url} sams-book
    %pip install -q ./sams-book
if Path("sams-book").is_dir():
    %cd -q sams-book/chapters"""


def say_how_to_install(notebook: Path, root: Path) -> None:
    """Begin a downloaded notebook with what it needs: a cell that installs it, where the repository has an address."""
    import nbformat
    import yaml

    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    repository = config.get("repository", {})
    said = nbformat.read(notebook, as_version=4)
    if said.cells[0].id == "install":
        return
    if repository.get("url"):
        cell = nbformat.v4.new_code_cell(INSTALL.format(**repository), id="install")
    else:
        how = 'run `pip install ".[book]"` in the folder of its repository'
        cell = nbformat.v4.new_markdown_cell(f"To run this notebook away from the book, first {how}.", id="install")
    said.cells.insert(0, cell)
    nbformat.write(said, notebook)


def one_viewport(page: str) -> str:
    """A page that says once how wide it is: the theme, its parent and docutils each say it."""
    tag = r'<meta [^>]*name="viewport"[^>]*>'
    first = re.search(tag, page)
    return page if first is None else page[: first.end()] + re.sub(tag, "", page[first.end() :])


def pages_to_read(now: Mapping[str, str], built: Mapping[str, str]) -> list[str] | None:
    """The pages that changed since the last good build; None, for all, if anything else did."""
    changed = sorted(name for name in now.keys() | built.keys() if now.get(name) != built.get(name))
    return changed if all(PAGE.fullmatch(name) for name in changed) else None


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Build the book in the folder `root`; the command line of the module's text. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the book into _build/html.")
    parser.add_argument("--executed", type=Path, help="a folder with the chapters as already run")
    parser.add_argument("--full", action="store_true", help="read every page again, also those that did not change")
    parser.add_argument("--quick", action="store_true", help="write only the pages that changed, and do not check them")
    options = parser.parse_args(arguments)
    full = options.full or options.executed is not None
    stamp = root / "_build" / "book.json"
    now = checksums(root, SOURCES)
    built = json.loads(stamp.read_text()) if stamp.exists() and (root / "_build" / "html").exists() else {}
    if now == built and not full:
        print("Nothing changed: _build/html/index.html is up to date.")
        return 0
    whole = built.pop(QUICK, None) is None
    # Gone until the build is good: after a failed one every page is read, since a page that was read warns no more.
    stamp.unlink(missing_ok=True)
    try:
        run_chapters(root, options.executed)
    except ChapterError as error:
        print(f"failed\n\n{error}")
        return 1
    full = full or not (whole or options.quick)  # what was written quickly is read again
    defects = [] if options.quick else unshown(root)
    defects += build_pages(root, None if full else pages_to_read(now, built), options.quick)
    if defects:
        print(*defects, "\nThe book was not built: mend what is listed above.", sep="\n")
        return 1
    stamp.write_text(json.dumps(now | ({QUICK: ""} if options.quick else {}), indent=1))
    print("The book is built: open _build/html/index.html, or run `make serve`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
