"""Run the chapters that changed, build the pages, check them. `make book` calls this.

python book/build.py                      run what changed, then build
python book/build.py --executed FOLDER    take the chapters as they were run there, then build
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import nbformat
import yaml
from check_html import problems
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "_build"
SITE = BUILD / "html"
STAMP = BUILD / "book.sha256"
LOG = BUILD / "book.log"


def fingerprint(*patterns: str) -> str:
    """One sha256 of the names and bytes of all files that match, relative to the root."""
    paths: set[Path] = set()
    for pattern in patterns:
        paths.update(p for p in ROOT.glob(pattern) if p.is_file() and "__pycache__" not in p.parts)
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def chapters() -> list[Path]:
    """The notebooks of the table of contents, in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    return [ROOT / f"{name}.ipynb" for name in files if name.startswith("chapters/")]


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; a failing cell raises what it raised, with its traceback."""
    notebook = nbformat.read(path, as_version=4)
    where, quiet = {"metadata": {"path": str(path.parent)}}, ["--log-level=ERROR"]
    return NotebookClient(notebook, timeout=600, resources=where, extra_arguments=quiet).execute()


def run_chapters(paths: list[Path], executed: Path | None) -> None:
    """Put each chapter's outputs into the cache that Jupyter Book reads, and run only what is not there.

    Outputs are current when code cells, library, data and pins are what they were when the chapter ran.
    """
    cache = get_cache(str(BUILD / ".jupyter_cache"))
    inputs = fingerprint("samslib/**/*.py", "data/**/*", "constraints.txt")
    for i, path in enumerate(paths, start=1):
        print(f"[{i}/{len(paths)}] {path.relative_to(ROOT)} ... ", end="", flush=True)
        start = time.perf_counter()
        if executed is not None:
            notebook, done = nbformat.read(executed / path.name, as_version=4), "as tested"
        elif _ran_with(cache, path, inputs):
            print("unchanged", flush=True)
            continue
        else:
            notebook = execute(path)
            done = f"{time.perf_counter() - start:.0f} s"
        data = {"execution_seconds": time.perf_counter() - start, "inputs": inputs}
        cache.cache_notebook_bundle(CacheBundleIn(notebook, str(path), data=data), check_validity=False, overwrite=True)
        print(done, flush=True)


def _ran_with(cache, path: Path, inputs: str) -> bool:
    try:
        return cache.match_cache_notebook(nbformat.read(path, as_version=4)).data.get("inputs") == inputs
    except KeyError:
        return False


def build() -> list[str]:
    """The pages, from scratch, so that a warning of an unchanged page is seen again; one line a defect."""
    for folder in (SITE, BUILD / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    tool = Path(sys.executable).with_name("jupyter-book")
    command = [str(tool), "build", str(ROOT), "-W", "-n", "--keep-going"]
    print("Building the pages ... ", end="", flush=True)
    start = time.perf_counter()
    with LOG.open("w") as log:  # a file: what typesets equations may outlive a failed build and hold a pipe
        status = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    if status == 0:
        return problems(SITE)
    said = re.sub(r"\x1b\[[0-9;]*m", "", LOG.read_text()).splitlines()
    found = [line.replace(f"{ROOT}/", "") for line in said if re.search(r"WARNING|ERROR|^\w*(Error|Exception)\b", line)]
    return [*dict.fromkeys(found)] + ["All that was said is in _build/book.log."]


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build the book into _build/html.")
    parser.add_argument("--executed", type=Path, help="a folder with the chapters as already run")
    options = parser.parse_args(arguments)
    stamp = fingerprint("_*.yml", "book/**/*", "chapters/*", "samslib/**/*.py", "data/**/*", "constraints.txt")
    if options.executed is None and STAMP.exists() and STAMP.read_text() == stamp and SITE.exists():
        print("Nothing changed: _build/html/index.html is up to date.")
        return 0
    STAMP.unlink(missing_ok=True)
    try:
        run_chapters(chapters(), options.executed)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"failed\n\n{error}")
        return 1
    defects = build()
    if defects:
        print(*defects, "\nThe book was not built: mend what is listed above.", sep="\n")
        return 1
    STAMP.write_text(stamp)
    print("The book is built: open _build/html/index.html, or run `make serve`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
