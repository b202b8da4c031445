"""The first page: what it claims is what was recorded, and it is the site's index, without a detour."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig

import nbformat
import pytest
import samsbook
import yaml
from samsbook import build, check_html, pages
from test_build import tiny  # noqa: F401  a fixture
from test_layout import ROOT


def claim(start):
    """The numbers of one of the three results."""
    front = (ROOT / "book" / "introduction.md").read_text(encoding="utf-8")
    [text] = re.findall(rf"- \*\*{start}\*\*(.*?)\n(?=- |\n)", front, re.DOTALL)
    return text, [float(number) for number in re.findall(r"\b0\.\d\d\b", text)]


def test_the_first_result_is_that_of_the_recorded_screens():
    text, numbers = claim("Better than the paper.")
    table = samsbook.read_results("beyond-sparsity")
    default, tuned = table[table["way"] == "default"]["f1"], table[table["tuned"]]["f1"]
    assert "six simulated screens" in text and len(default) == 6
    assert numbers == pytest.approx([default.min(), default.max(), tuned.min(), tuned.max()], abs=0.005)


def test_the_second_result_is_that_of_the_recorded_real_screen():
    text, numbers = claim("As good as it gets.")
    table = samsbook.read_results("beyond-effects")
    means = table.groupby("model")["correlation"].mean()
    ours, published = means["SAMS-VAE, guides and direct effects"], means["SAMS-VAE, correlated"]
    alone = means[means.index.str.startswith("data: ")].max()
    assert "19,060" in text
    assert numbers == pytest.approx([ours, table["ceiling"].mean(), published, alone], abs=0.005)


def test_the_third_result_is_that_of_the_recorded_pairs():
    _, numbers = claim("Not better at all.")
    table = samsbook.read_results("grid-devel-norman").query("fraction == 0 and task == 'unseen combinations'")
    means = table[table["encoding"] == "compositional"].groupby("model")["pearson"].mean()
    assert numbers == pytest.approx([means["SAMS-VAE"], means["additive"]], abs=0.005)


def test_addresses_are_written_anew_where_a_page_is_read_from_the_folder_above():
    page = '<html data-content_root="../"><a href="rerun.html#x"><img src="../_static/a.svg"><a href="#top"><a href="https://x.org">'
    told = '<html data-content_root="./"><a href="book/rerun.html#x"><img src="_static/a.svg"><a href="#top"><a href="https://x.org">'
    assert build.from_above(page, "book") == told


def test_the_front_page_is_the_index_and_an_address_brings_buttons(tiny, capsys):  # noqa: F811
    """The index shows the page itself, with links that resolve; and with the address of a repository there is a way to
    its file, its issues, Colab and Binder, for nothing that is fetched."""
    (tiny / "book" / "index.md").rename(tiny / "book" / "introduction.md")
    front = tiny / "book" / "introduction.md"
    front.write_text('# Front\n\nHello, {doc}`/chapters/01_first`. <span class="built">Not said.</span>\n')
    toc, config = tiny / "_toc.yml", tiny / "_config.yml"
    toc.write_text(toc.read_text().replace("book/index", "book/introduction"))
    known = yaml.safe_load(config.read_text()) | {
        "repository": {"url": "https://github.com/ours/book", "branch": "main"}
    }
    config.write_text(yaml.safe_dump(known))
    assert build.main([], tiny) == 0, capsys.readouterr().out
    site = tiny / "_build" / "html"
    index = (site / "index.html").read_text()
    assert "Hello, " in index and 'http-equiv="refresh"' not in index.lower()
    assert re.search(r'<span class="built">Built on \d\d \w+ \d{4} from version \d', index)
    assert 'href="chapters/01_first.html"' in index and not check_html.problems(site)
    chapter = (site / "chapters" / "01_first.html").read_text()
    for way in ("github.com/ours/book/edit/main/chapters/01_first.ipynb", "github.com/ours/book/issues"):
        assert way in chapter
    downloaded = nbformat.read(site / "_sources" / "chapters" / "01_first.ipynb", as_version=4)
    assert "git clone -q --depth 1 --branch main https://github.com/ours/book " in downloaded.cells[0].source
    assert downloaded.cells[1].source == "# Title 01_first"
    opens = f"https://colab.research.google.com/github/ours/book/blob/{pages.NOTEBOOKS}/chapters/01_first.ipynb"
    assert f'href="{opens}"' in chapter, "the one that begins by installing"
    assert "mybinder.org/v2/gh/ours/book/main?urlpath=lab/tree/chapters/01_first.ipynb" in chapter
    assert "install" not in (tiny / "chapters" / "01_first.ipynb").read_text()


def git(folder, *words):
    ours = ("-c", "user.name=A", "-c", "user.email=a@invalid", "-c", "init.defaultBranch=main")
    return subprocess.run(["git", *ours, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_what_is_published_pushes_the_downloaded_chapters_to_the_branch_that_colab_opens(tmp_path):
    """The workflow's own lines, between a clone and a repository on this machine: twice, as at a later push."""
    work, origin = tmp_path / "work", tmp_path / "origin.git"
    for folder in (work, origin):
        folder.mkdir()
    git(origin, "init", "-q", "--bare")
    git(work, "init", "-q")
    git(work, "remote", "add", "origin", str(origin))
    (work / ".gitignore").write_text("_build/\n")
    git(work, "add", ".")
    git(work, "commit", "-qm", "All")
    sources = work / "_build" / "html" / "_sources"
    for name in ("chapters/01_first.ipynb", "book/index.md"):
        (sources / name).parent.mkdir(parents=True)
        (sources / name).write_text("first")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["publish"]["steps"]
    [lines] = [step["run"] for step in steps if step.get("name") == "Push the notebooks"]
    environment = os.environ | {"GITHUB_SHA": "0123456"}
    for text in ("first", "second"):
        (sources / "chapters" / "01_first.ipynb").write_text(text)
        subprocess.run(["bash", "-e", "-c", lines], cwd=work, env=environment, check=True, capture_output=True)
        assert git(origin, "show", f"{pages.NOTEBOOKS}:chapters/01_first.ipynb") == text
    assert git(origin, "ls-tree", "-r", "--name-only", pages.NOTEBOOKS).split() == ["chapters/01_first.ipynb"]
    assert git(origin, "log", "--format=%s", pages.NOTEBOOKS) == "Chapters of 0123456\n", "no history is kept of them"


SHOW = "\nimport samslib\nprint('HERE', samslib.__file__, Path.cwd())\n"


def test_the_first_cell_of_a_downloaded_chapter_brings_the_library_and_the_book_only_where_they_are_missing(tmp_path):
    """As in Colab: an interpreter with other packages and without ours; then after a restart; then beside the book."""
    origin, work, site = tmp_path / "origin", tmp_path / "work", tmp_path / "site"
    for folder in (origin / "samslib", origin / "chapters", work, site):
        folder.mkdir(parents=True)
    (origin / "samslib" / "__init__.py").write_text("")
    (origin / "chapters" / "01_first.ipynb").write_text("{}")
    (origin / "pyproject.toml").write_text(
        '[project]\nname = "samslib"\nversion = "1"\n[tool.setuptools]\npackages = ["samslib"]\n'
    )
    git(origin, "init", "-q")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "All")
    cell = build.INSTALL.format(url=origin.as_uri(), branch="main")
    (tmp_path / "cell.ipy").write_text(cell + SHOW)
    others = sysconfig.get_path("purelib")  # on the path only, so that what is installed in place is not found
    environment = os.environ | {"PYTHONPATH": f"{others}{os.pathsep}{site}", "IPYTHONDIR": str(tmp_path / "ipython")}
    environment |= {"PIP_TARGET": str(site), "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}

    def run(folder):
        asked = [sys.executable, "-S", "-m", "IPython", "--no-banner", str(tmp_path / "cell.ipy")]
        done = subprocess.run(asked, cwd=folder, env=environment, capture_output=True, text=True)
        assert "HERE" in done.stdout, done.stdout + done.stderr
        return done.stdout.split("HERE ")[1].split()

    installed = [str(site / "samslib" / "__init__.py"), str(work / "sams-book" / "chapters")]
    assert run(work) == installed
    shutil.rmtree(origin)  # a restarted kernel fetches nothing
    assert run(work) == installed
    assert run(tmp_path) == [installed[0], str(tmp_path)] and not (tmp_path / "sams-book").exists()
