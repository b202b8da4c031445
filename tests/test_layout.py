"""The house stays as planned: its rooms, the arrows between modules, chapters and dependencies."""

import ast
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import pytest
from samsbook import house
from samsbook.house import room_of
from samsbook.pages import documented, folded

ROOT = Path(__file__).resolve().parent.parent
MODULES = house.sources()
HOUSE = house.measure()
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
TOP = {
    "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "Makefile", "pyproject.toml",
    "constraints.txt", "environment.yml", "_config.yml", "_toc.yml", "book", "chapters", "samslib", "data",
    "tests", "Snakefile", ".ci", ".github", ".gitattributes", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip
CONDA_NAMES = {"torch": "pytorch", "igraph": "python-igraph"}


def tracked() -> list[Path]:
    """The project's files: tracked ones, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def cells(path: Path, kind: str = "code") -> list[dict]:
    found = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_the_top_level_is_the_plan():
    present = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert present <= TOP, f"not in the plan: {present - TOP}"
    assert TOP <= present, f"missing: {TOP - present}"


def test_the_readme_starts_with_the_two_commands_and_its_links_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.index("\nmake book") < text.index("\nmake test") < text.index("\n## ")
    for link in re.findall(r"\]\(((?!\.\./\.\./actions/)[^)#:]+)\)", text):  # not the badge, which is the host's
        assert (ROOT / link).exists(), f"README.md points to {link}, which is not there"


# --- the library ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_and_has_its_test(name):
    assert ast.get_docstring(MODULES[name].tree), f"{name} has no docstring"
    if "." in name and MODULES[name].path.name != "__init__.py":
        tests = [ROOT / "tests" / f"test_{part}.py" for part in (name.split(".")[-1], name.split(".")[1])]
        assert any(test.exists() for test in tests), f"{tests[0].name} is missing"


def test_every_module_is_in_the_reference_once():
    pages = documented(ROOT / "book" / "api")
    assert sorted(name for page in pages.values() for name in page) == sorted(set(MODULES) - {"samslib"})


def test_the_contents_have_every_page_of_the_reference():
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert all(f"- file: book/api/{page}\n" in contents for page in documented(ROOT / "book" / "api"))


BELOW = {  # room of the library -> the rooms that it may import from
    "vocabulary": set(),
    "models": {"vocabulary"},
    "data": {"vocabulary"},
    "datasets": {"vocabulary", "data"},
    "alignment": {"vocabulary", "data"},
    "checkpoint": {"vocabulary", "models"},
    "training": {"vocabulary", "models", "data", "alignment", "checkpoint"},
    "evaluate": {"vocabulary", "data", "alignment"},
    "official": {"vocabulary", "models"},
    "plotting": set(),
}
MODEL_SIDE = {"samslib.model", "samslib.nets", "samslib.objective", "samslib.distributions", "samslib.trace"}


@pytest.mark.parametrize("name", HOUSE.modules)
def test_rooms_open_only_into_those_below(name):
    """Models know nothing of how they are fitted, judged or fed; data know no model; the library knows no book."""
    room, imported = room_of(name), HOUSE.modules[name]
    wrong = {other for other in imported if room_of(other) not in {room, *BELOW[room]}}
    assert not wrong, f"{name} imports {sorted(wrong)}"
    assert "samsbook" not in MODULES[name].path.read_text(encoding="utf-8"), f"{name} speaks of the book's package"
    assert room not in ("data", "datasets") or not imported & MODEL_SIDE, f"{name} imports a model's part"
    assert room != "models" or "samslib.objective" not in imported, f"{name} knows how it is fitted"


@pytest.mark.parametrize("leaf", ["observed", "predictors", "scores", "tables", "annotation", "recovery"])
def test_what_reads_cells_and_tables_alone_imports_no_model_machinery(leaf):
    seen, left = set(), {f"samslib.evaluate.{leaf}"}
    while left:
        seen |= left
        left = {other for name in left for other in HOUSE.modules[name]} - seen
    machinery = {"samslib.objective", "samslib.nets", "samslib.training", "samslib.evaluate.effects"}
    assert not seen & machinery, f"{leaf} needs {sorted(seen & machinery)}"


def test_plotting_sees_data_frames_only():
    assert not HOUSE.modules["samslib.plotting"], f"plotting.py imports {HOUSE.modules['samslib.plotting']}"
    assert "torch" not in MODULES["samslib.plotting"].path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "package", ["samslib", "samslib.data", "samslib.datasets", "samslib.evaluate", "samslib.models"]
)
def test_no_name_of_a_package_hides_a_module(package):
    """`samslib.x` is the module x wherever there is one, whatever was imported before."""
    names = [name.rpartition(".")[2] for name in MODULES if name.rpartition(".")[0] == package]
    here = vars(importlib.import_module(package))
    hidden = [name for name in names if name in here and not isinstance(here[name], types.ModuleType)]
    assert not hidden, f"{package}.{hidden[0]} is not the module of that name"


def test_no_arrow_points_back_up():
    assert house.depths(HOUSE.modules) and house.depths(HOUSE.rooms)
    with pytest.raises(ValueError, match=r"in a circle: \['a', 'b'\]"):
        house.depths({"a": {"b"}, "b": {"a"}, "c": set()})


def test_the_page_shows_the_house_as_it_stands():
    remedy = "run `python -m samsbook.house` and commit what it writes"
    assert (ROOT / house.PICTURE).read_text(encoding="utf-8") == house.picture(HOUSE), remedy
    assert (ROOT / house.TABLE).read_text(encoding="utf-8") == house.table(HOUSE), remedy


CORE = ("vocabulary", "models", "training", "checkpoint")
CORE_LIMIT, LIBRARY_LIMIT = 1900, 5600  # lines of code; docstrings, comments and blank lines are not counted


def test_the_library_stays_small(record_property):
    core, lengths = sum(HOUSE.lines[room] for room in CORE), sorted(HOUSE.functions.values())
    largest = max(HOUSE.classes, key=HOUSE.classes.__getitem__)
    record_property("lines of code", "\n".join([
        ", ".join(f"{room} {lines}" for room, lines in HOUSE.lines.items()),
        f"{' + '.join(CORE)} {core} (limit {CORE_LIMIT}), library {HOUSE.total} (limit {LIBRARY_LIMIT})",
        f"functions: median {statistics.median(lengths):g}, 95th percentile {lengths[len(lengths) * 95 // 100]}, "
        f"{sum(length > 50 for length in lengths)} of {len(lengths)} over 50",
        f"largest class: {largest} {HOUSE.classes[largest]}; "
        f"longest chain of imports: {max(house.depths(HOUSE.modules).values())}",
    ]))  # fmt: skip
    assert core < CORE_LIMIT and HOUSE.total < LIBRARY_LIMIT


HEAVY = ("scanpy", "sklearn", "matplotlib", "seaborn", "skimage", "igraph")


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import samslib", ("torch", "anndata", "pandas", *HEAVY)),
        ("import samslib; samslib.PerturbationData", HEAVY),
        ("import samslib; samslib.SAMSVAE; samslib.fit", HEAVY),
    ],
)
def test_imports_only_what_is_used(code, absent):
    shown = f"{code}; import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", shown], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not (found := set(loaded.split()) & set(absent)), f"`{code}` imports {sorted(found)}"


# --- the book's package ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "book" / "samsbook").glob("*.py")), ids=lambda path: path.stem)
def test_the_books_package_can_be_imported(path):
    assert importlib.import_module(f"samsbook.{path.stem}").__doc__


def test_commands_that_are_written_down_exist():
    places = [ROOT / name for name in ("Makefile", "Snakefile", "README.md", "CONTRIBUTING.md")]
    for path in [*places, *(ROOT / "book").glob("*.md"), *(ROOT / "book" / "samsbook").glob("*.py")]:
        for command in re.findall(r"python -m (sams\w+(?:\.\w+)*)", path.read_text(encoding="utf-8")):
            assert importlib.util.find_spec(command), f"{path.name}: python -m {command}"


# --- the chapters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
class TestChapter:
    def test_has_no_outputs(self, path):
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells(path))

    def test_has_one_cell_of_parameters_and_checks_it_in_a_later_one(self, path):
        code = cells(path)
        (position,) = [i for i, cell in enumerate(code) if "parameters" in tags(cell)]
        later = "\n".join(cell["source"] for cell in code[position + 1 : position + 3])
        assert re.search(r"check_parameters\(\s*globals\(\)", later), "check them in the cell after"

    def test_explains_each_parameter(self, path):
        from samsbook.parameters import declared

        assert all(parameter.help for parameter in declared(path).values())

    def test_a_sentence_stands_between_every_twenty_lines_of_open_code(self, path):
        run = 0  # mirror cells are to be read as a whole
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                run = 0
            elif not folded(cell) and "mirror" not in cell.metadata.get("tags", ()):
                run += sum(bool(line.strip()) for line in cell.source.splitlines())
                assert run <= 20, cell.source

    def test_cells_are_short(self, path):
        lengths = [len(cell["source"].splitlines()) for cell in cells(path)]
        assert len(lengths) <= 40 and statistics.median(lengths) <= 10

    def test_defines_nothing_long_outside_a_mirror_cell(self, path):
        for cell in cells(path):
            source = "".join(
                line if not line.startswith(("%", "!")) else "\n" for line in cell["source"].splitlines(True)
            )
            for node in ast.walk(ast.parse(source)):
                if "mirror" not in tags(cell) and isinstance(node, ast.FunctionDef | ast.ClassDef):
                    lines = (node.end_lineno or 0) - node.lineno + 1
                    assert lines <= 12 and not isinstance(node, ast.ClassDef), f"{node.name} belongs in samslib"

    def test_mirror_cells_end_in_agreement_with_the_library(self, path):
        mirrors = [cell for cell in cells(path) if "mirror" in tags(cell)]
        assert mirrors, "a chapter builds its equation from scratch in a cell tagged `mirror`"
        assert all("assert_close" in cell["source"] for cell in mirrors)

    def test_figures_have_caption_and_alt_text(self, path):
        for cell in cells(path):
            shown = cell["metadata"].get("mystnb", {})
            if shown.get("figure"):
                assert len(shown["figure"].get("caption", "")) > 20, "a caption says what to see"
                assert len(shown.get("image", {}).get("alt", "")) > 20, "an alt text says what is drawn"
                assert shown["figure"].get("name", "").startswith("fig-"), "a name lets the text point to it"
            drawn = re.search(r"plotting\.(?!\w*style|summarise)\w+\(|plt\.subplots\(|\.figure\(", cell["source"])
            assert not drawn or shown.get("figure"), f"a figure without caption: {cell['source'][:60]!r}"


# --- dependencies -----------------------------------------------------------------------------------------


def requirements() -> dict[str, str]:
    """name -> version range of core, book, grid and test, as pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["book"], *extras["grid"], *extras["test"]]
    return dict(re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups() for line in lines)  # type: ignore[union-attr, misc]


def test_conda_says_what_pip_says():
    yaml = pytest.importorskip("yaml")
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip_only = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = {}
    for line in (entry for entry in listed if isinstance(entry, str)):
        match = re.fullmatch(
            r"([a-z0-9_.-]+)(?: ((?:[<>=!~]=?[0-9][0-9a-z.*]*)(?:,[<>=!~]=?[0-9][0-9a-z.*]*)*))?", line
        )
        assert match, f"{line!r} is no conda match specification"
        conda[match[1]] = match[2] or ""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert conda.pop("python") == project["requires-python"] and conda.pop("pip") == ""
    conda |= dict(re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups() for line in pip_only)
    assert conda == {CONDA_NAMES.get(name, name): range_ for name, range_ in requirements().items()}


def test_constraints_are_bare_and_pin_what_is_asked_for():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-").replace(".", "-") for line in lines}
    assert set(requirements()) <= pinned, f"not pinned: {set(requirements()) - pinned}"


# --- nothing of one machine -------------------------------------------------------------------------------


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    registries = "|".join(["pypi", "pythonhosted", "npmjs", "anaconda", "pytorch"])  # names; a host has more to it
    hosts = re.compile(rf"\b({registries})\.(org|io|com)\b|registry\.np[m]|(index-ur|find-link)[ls]\b")
    paths = re.compile(r"(?<![\w.:/<])/(home|root|Users|work|tmp|opt)/\w")
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".ipynb", ".cff", ".json", ".csv", ""}
            and path != Path(__file__).resolve()
        ):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not hosts.search(text), f"{path.name} names a registry"
            assert not paths.search(text), f"{path.name} holds {paths.search(text)}"


def test_no_file_is_large():
    for path in tracked():
        assert path.stat().st_size <= 2 * 2**20, f"{path.name} is over 2 MiB"
