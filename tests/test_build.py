"""The build runs a chapter once, whatever is done to its prose, and takes up nothing from a build that failed."""

import copy
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import yaml
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from samsbook import build, outputs, pages
from test_layout import ROOT

NAMES = ("01_first", "02_second")


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def tiny(tmp_path):
    """A book of one page and two chapters, whose only code cell notes each run in the file `runs`."""
    ours = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config = {key: ours[key] for key in ("only_build_toc_files", "execute", "repository")}
    extensions = {"extra_extensions": ["sphinx.ext.autodoc", "samsbook.pages"]}
    config |= {"title": "Tiny", "sphinx": extensions}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    parts = [{"caption": "Chapters", "chapters": [{"file": f"chapters/{name}"} for name in NAMES]}]
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "book/index", "parts": parts}))
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# Index\n\nA page.\n")
    (tmp_path / "chapters").mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for name in NAMES:
        code = f"with open('../runs', 'a') as file:\n    file.write('{name} ')\nprint('a note', 'is made')"
        cells = [new_markdown_cell(f"# Title {name}"), new_code_cell(code)]
        nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "chapters" / f"{name}.ipynb")
    return tmp_path


def runs(folder):
    path = folder / "runs"
    return path.read_text().split() if path.exists() else []


def page(folder, name):
    return (folder / "_build" / "html" / f"{name}.html").read_text(encoding="utf-8")


def test_each_chapter_runs_once_whatever_becomes_of_prose_and_a_warning_comes_back_until_it_is_mended(tiny, capsys):
    index, first = tiny / "book" / "index.md", tiny / "chapters" / "01_first.ipynb"
    assert build.main([], tiny) == 0, capsys.readouterr().out
    assert "a note is made" in page(tiny, "chapters/01_first") and "a note is made" in page(tiny, "chapters/02_second")

    assert '<meta name="description" content="A page."' in page(tiny, "book/index")
    assert '<meta property="og:title" content="Title 01_first"' in page(tiny, "chapters/01_first")
    downloaded = nbformat.read(tiny / "_build" / "html" / "_sources" / "chapters" / "01_first.ipynb", as_version=4)
    assert 'pip install ".[book]"' in downloaded.cells[0].source and downloaded.cells[1].source == "# Title 01_first"
    for button in ("btn-source-edit-button", "colab", "mybinder", "/issues"):  # no address of a repository is known
        assert button not in page(tiny, "chapters/01_first")

    edit(index, "A page.", "Reworded.")
    edit(first, "Title 01_first", "Another title")
    for path in (index, first):
        os.utime(path, (0, 0))  # as of a file that an archive brought back: what it says counts, not its time
    assert build.main([], tiny) == 0, capsys.readouterr().out
    assert "Reworded." in page(tiny, "book/index") and "Another title" in page(tiny, "chapters/01_first")
    assert "Another title" in page(tiny, "chapters/02_second"), "in the contents, which stand beside every page"

    edit(index, "Reworded.", "See {doc}`nowhere` and {odd}`this`.")
    for _ in range(2):
        capsys.readouterr()
        assert build.main([], tiny) == 1
        said = capsys.readouterr().out
        assert "book/index.md:3: WARNING: unknown document: 'nowhere'" in said and '"odd"' in said
    assert runs(tiny) == list(NAMES)


def test_a_number_that_its_chapter_does_not_show_stops_the_build_with_the_remedy(tiny, monkeypatch, capsys):
    monkeypatch.setattr(build, "build_pages", lambda *_: [])
    first = tiny / "chapters" / "01_first.ipynb"
    edit(first, "Title 01_first", "Title of 0.77")
    assert build.main(["--quick"], tiny) == 0
    assert build.main([], tiny) == 1
    told = capsys.readouterr().out
    assert 'chapters/01_first.ipynb, Opening: nothing shown there gives the 0.77 of "# Title of 0.77"' in told
    assert "Print it in its section, drop it, or name its source" in told
    edit(first, "0.77", "77")
    assert build.main([], tiny) == 0


def test_recorded_reports_lie_in_the_book_and_are_checked_with_it(tiny, capsys):
    index, reports = tiny / "book" / "index.md", tiny / "book" / "reports"
    reports.mkdir()
    (reports / "mine.html").write_text("<p>A report.</p>")
    edit(index, "A page.", 'See <a href="reports/mine.html">a report</a>.')
    assert build.main([], tiny) == 0, capsys.readouterr().out
    assert "A report." in page(tiny, "book/reports/mine")
    (reports / "mine.html").write_text('<img src="https://elsewhere.example/a.png" alt="Far away">')
    assert build.main([], tiny) == 1
    assert "book/reports/mine.html: loads https://elsewhere.example/a.png from the network" in capsys.readouterr().out


def test_jupyter_book_runs_no_code_and_says_which_chapter_lacks_its_outputs(tiny):
    found = build.build_pages(tiny, None)
    assert any("chapters/01_first.ipynb was not run with the code that it has now" in line for line in found), found
    assert runs(tiny) == []


def test_chapters_as_tested_are_taken_with_the_notes_that_a_tool_left_in_their_cells(tiny, capsys):
    tested = tiny / "tested"
    tested.mkdir()
    for name in NAMES:
        notebook = nbformat.read(tiny / "chapters" / f"{name}.ipynb", 4)
        notebook.cells[1].outputs = [new_output("stream", text="as tested")]
        notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        nbformat.write(notebook, tested / f"{name}.ipynb")
    build.run_chapters(tiny, tested)
    build.run_chapters(tiny, None)
    assert runs(tiny) == [] and capsys.readouterr().out.count("unchanged") == 2
    source = [(tiny / "chapters" / "01_first.ipynb").read_text()]
    pages._show_outputs(SimpleNamespace(srcdir=tiny, env=Environment()), "chapters/01_first", source)
    (shown,) = nbformat.reads(source[0], 4).cells[1].outputs
    assert shown.text == "as tested"


class Environment:
    """What the extension asks of Sphinx's environment."""

    def doc2path(self, page):
        return f"{page}.ipynb"

    def note_dependency(self, path):
        assert Path(path).is_file()


def change_source(notebook):
    notebook.cells[1].source += "\n1"


def change_tags(notebook):
    notebook.cells[1].metadata["tags"] = ["raises-exception"]


def change_prose(notebook):
    notebook.cells[0].source = "# Other"
    notebook.cells[1].metadata["mystnb"] = {"figure": {"caption": "Another caption."}}
    notebook.cells.append(new_markdown_cell("More."))


@pytest.mark.parametrize(
    "change, inputs, current",
    [
        (change_prose, "same", True),
        (change_source, "same", False),
        (change_tags, "same", False),
        (change_prose, "other", False),
    ],
)
def test_outputs_are_current_as_long_as_code_and_inputs_are(tiny, change, inputs, current):
    notebook = nbformat.read(tiny / "chapters" / "01_first.ipynb", 4)
    kept = outputs.place(tiny, "chapters/01_first")
    assert not outputs.current(kept, notebook, "same")
    outputs.keep(copy.deepcopy(notebook), kept, "same")
    assert outputs.current(kept, notebook, "same")
    change(notebook)
    assert outputs.current(kept, notebook, inputs) is current


@pytest.mark.parametrize(
    "changes, to_read",
    [
        ({"book/a.md": "1"}, ["book/a.md"]),
        ({"book/a.md": "1", "chapters/b.ipynb": "1"}, ["book/a.md", "chapters/b.ipynb"]),
        ({"book/new.md": "1"}, ["book/new.md"]),
        ({"book/a.md": "1", "samslib/cells.py": "1"}, None),
        ({"data/x.csv": "1"}, None),
        ({"data/x.md": "1"}, None),
        ({"_config.yml": "1"}, None),
        ({"book/samsbook/pages.py": "1"}, None),
    ],
)
def test_all_pages_are_read_if_anything_but_pages_changed(changes, to_read):
    built = {"book/a.md": "0", "chapters/b.ipynb": "0", "samslib/cells.py": "0", "data/x.csv": "0", "_config.yml": "0"}
    assert build.pages_to_read(built | changes, built) == to_read
    assert build.pages_to_read(built, {}) is None


def test_pages_are_read_when_they_change_and_all_after_a_failed_build_or_when_asked(tiny, monkeypatch):
    defects, asked = [], []
    monkeypatch.setattr(build, "run_chapters", lambda root, executed: None)
    monkeypatch.setattr(build, "build_pages", lambda root, changed, quick: asked.append(changed) or defects)
    (tiny / "_build" / "html").mkdir(parents=True)
    index = tiny / "book" / "index.md"

    def make(*words):
        asked.clear()
        return build.main(list(words), tiny), asked

    assert make() == (0, [None]) and make() == (0, [])
    assert make("--full") == (0, [None]) and make("--executed", "tested") == (0, [None]) and make() == (0, [])
    edit(index, "A page.", "Another.")
    assert make() == (0, [["book/index.md"]])
    defects.append("a link leads nowhere")
    edit(index, "Another.", "A page.")
    assert make() == (1, [["book/index.md"]]) and make() == (1, [None])
    defects.clear()
    edit(index, "A page.", "Mended.")
    assert make() == (0, [None]) and make() == (0, [])
    shutil.rmtree(tiny / "_build" / "html")
    assert make() == (0, [None])


def test_a_quick_build_writes_what_changed_and_the_next_one_reads_all(tiny, capsys):
    index = tiny / "book" / "index.md"
    assert build.main([], tiny) == 0, capsys.readouterr().out
    edit(index, "# Index", "# Renamed")
    assert build.main(["--quick"], tiny) == 0, capsys.readouterr().out
    assert "Renamed" in page(tiny, "book/index") and "Renamed" not in page(tiny, "chapters/01_first")
    assert build.main([], tiny) == 0, capsys.readouterr().out
    assert "Renamed" in page(tiny, "chapters/01_first")
    capsys.readouterr()
    assert build.main([], tiny) == 0 and "Nothing changed" in capsys.readouterr().out
    assert runs(tiny) == list(NAMES)


def test_a_failing_chapter_is_named_and_those_before_it_are_kept(tiny, monkeypatch, capsys):
    monkeypatch.setattr(build, "build_pages", lambda root, changed, quick: [])
    second = tiny / "chapters" / "02_second.ipynb"
    edit(second, "print('a note'", "print(a_note")
    assert build.main([], tiny) == 1
    said = capsys.readouterr().out
    assert "name 'a_note' is not defined" in said
    assert said.splitlines()[-1].startswith("02_second.ipynb failed as told above: mend it")
    edit(second, "print(a_note", "print('a note'")
    assert build.main([], tiny) == 0
    assert runs(tiny) == [NAMES[0], NAMES[1], NAMES[1]]


def test_without_a_kernel_the_remedy_is_told(tiny, monkeypatch, capsys):
    def missing(manager, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", missing)
    assert build.main([], tiny) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "Jupyter has no kernel 'python3' to run chapters in: `python -m pip install ipykernel` gives it one."


def test_what_chapters_import_of_the_books_package_is_among_their_inputs():
    """Directly and through each other: else a page would show what an older helper computed."""
    asked = {"__init__"}
    for path in (ROOT / "chapters").glob("*.ipynb"):
        code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        for module, names in re.findall(r"^from samsbook(?:\.(\w+))? import ([\w, ]+)$", code, re.M):
            asked |= {module} if module else set(re.split(r",\s*", names))
    reached: set[str] = set()
    while asked:
        name = asked.pop()
        reached.add(name)
        text = (ROOT / "book" / "samsbook" / f"{name}.py").read_text(encoding="utf-8")
        asked |= set(re.findall(r"^from samsbook\.(\w+) import", text, re.M)) - reached
    assert reached <= set(build.HELPERS), reached - set(build.HELPERS)
