"""Writing the book: a saved page is built and shown anew, and a new chapter begins whole."""

import threading
import time
import urllib.request
from functools import partial
from http.server import ThreadingHTTPServer

import nbformat
import pytest
import yaml
from samsbook import build, new_chapter, serve, text
from samsbook.parameters import declared
from test_build import tiny  # noqa: F401  a fixture


def test_a_page_is_served_with_what_reloads_it_once_a_source_was_saved(tiny, monkeypatch):  # noqa: F811
    site = tiny / "_build" / "html"
    (site / "book").mkdir(parents=True)
    (site / "book" / "index.html").write_text("<html><body>old</body></html>")
    (site / "plain.txt").write_text("as it is")

    def rebuilt(arguments, root):
        (site / "book" / "index.html").write_text("<html><body>new</body></html>")
        return 0

    monkeypatch.setattr(build, "main", rebuilt)
    stamp, stop = {"built": 1.0}, threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(serve.Handler, stamp=stamp, directory=site)) as server:

        def get(path):
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=20) as answer:
                return answer.read().decode()

        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        watching = threading.Thread(target=serve.watch, args=(tiny, stamp, stop, 0.01), daemon=True)
        watching.start()
        assert "old<script>" in get("/book/index.html") and get("/.stamp") == "1.0"
        assert "old<script>" in get("/book/") and get("/plain.txt") == "as it is"
        time.sleep(0.1)  # the watch has taken its first look
        (tiny / "book" / "index.md").write_text("# Index\n\nSaved.\n")
        deadline = time.monotonic() + 60
        while get("/.stamp") == "1.0" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert get("/.stamp") != "1.0" and "new<script>" in get("/book/index.html")
        stop.set()
        watching.join()
        server.shutdown()


def test_a_build_that_fails_leaves_what_is_shown(tiny, monkeypatch):  # noqa: F811
    stop, calls = threading.Event(), []
    monkeypatch.setattr(build, "main", lambda arguments, root: calls.append(stop.set()) or 1)
    stamp, looks = {"built": 1.0}, iter([{}, {tiny: 1}])
    monkeypatch.setattr(serve, "times", lambda root: next(looks, {tiny: 1}))
    serve.watch(tiny, stamp, stop, 0.001)
    assert len(calls) == 1 and stamp == {"built": 1.0}


def test_a_new_chapter_runs_and_stands_in_the_contents(tiny, capsys):  # noqa: F811
    path = new_chapter.begin("03_my_chapter", tiny)
    files = [c["file"] for part in yaml.safe_load((tiny / "_toc.yml").read_text())["parts"] for c in part["chapters"]]
    assert files == ["chapters/01_first", "chapters/02_second", "chapters/03_my_chapter"]
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# My chapter") and "Exercise 3.1" in notebook.cells[-1].source
    assert "{doc}`/chapters/01_generative_model`" in notebook.cells[0].source
    assert list(declared(path)) == ["steps", "seed"]
    names = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source.replace("steps: int = 200", "steps: int = 2"), names)
    assert {"loss", "val_loss"} <= set(names["history"])


@pytest.mark.parametrize(
    ("name", "says"), [("my_chapter", "such as 10_my_chapter"), ("01_again", "01_first.ipynb has the number 01")]
)
def test_a_wrong_name_of_a_chapter_is_refused_and_nothing_is_written(tiny, name, says):  # noqa: F811
    before = build.checksums(tiny, ["*.yml", "chapters/*"])
    with pytest.raises(ValueError, match=says):
        new_chapter.begin(name, tiny)
    assert build.checksums(tiny, ["*.yml", "chapters/*"]) == before


def test_a_notebook_is_compared_by_its_text(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\nProse."),
        nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["mirror"], "mystnb": {"figure": {"caption": "One."}}}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    told = "=== 0 markdown\n# Title\n\nProse.\n\n=== 1 code [mirror]\nx = 1\n\nCaption: One.\n"
    assert text.text(tmp_path / "a.ipynb") == told
    (tmp_path / "b.ipynb").write_text("half of a noteb")
    assert text.text(tmp_path / "b.ipynb") == "half of a noteb"
