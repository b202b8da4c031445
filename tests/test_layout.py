"""The house stays as planned: its rooms, the arrows between modules, chapters and dependencies."""

import ast
import importlib
import json
import re
import statistics
import subprocess
import tomllib
import types
from pathlib import Path

import pytest
from samsbook.pages import documented

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    path for path in (ROOT / "samslib").rglob("*.py") if "__pycache__" not in path.parts and path.name != "__main__.py"
)
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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """The modules of samslib that a file imports, wherever in it."""
    found = set()
    known = {module_name(p) for p in MODULES}
    here = [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= (names & known) or {source}
    return {name for name in found if name.split(".")[0] == "samslib"}


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
    assert text.index("make book") < text.index("make test") < text.index("![")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), f"README.md points to {link}, which is not there"


# --- the library ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_every_module_says_what_it_is_and_has_its_test(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path.name} has no docstring"
    if path.name == "__init__.py" and path.parent == ROOT / "samslib":
        return
    room, leaf = path.relative_to(ROOT / "samslib").parts[0].removesuffix(".py"), path.stem
    tests = [ROOT / "tests" / f"test_{name}.py" for name in (leaf, room)]
    assert leaf == "__init__" or any(test.exists() for test in tests), f"{tests[0].name} is missing"


def test_every_module_is_in_the_reference_once():
    rooms = documented(ROOT / "book" / "api").values()
    assert sorted(name for room in rooms for name in room) == sorted(
        {module_name(path) for path in MODULES} - {"samslib"}
    )


ROOMS = {  # room of the library -> the rooms that it may import from
    "vocabulary": set(),  # what a model is: the modules that lie in the library's folder, but for those below
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
MODEL_SIDE = {"model", "nets", "objective", "distributions", "trace"}


def room_of(module: str) -> str:
    first = module.split(".")[1]
    return first if first in ROOMS else "vocabulary"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.stem != "__init__" or p.parent.name != "samslib"], ids=module_name
)
def test_rooms_open_only_into_those_below(path):
    """Models know nothing of how they are fitted, judged or fed; data know no model; the library knows no book."""
    name = module_name(path)
    room = room_of(name)
    wrong = {m for m in imports(path) if m != "samslib" and room_of(m) not in {room, *ROOMS[room]}}
    assert not wrong, f"{name} imports {sorted(wrong)}"
    assert "samsbook" not in path.read_text(encoding="utf-8"), f"{name} speaks of the book's package"
    if room in ("data", "datasets"):
        assert not {m.split(".")[1] for m in imports(path) if m != "samslib"} & MODEL_SIDE, (
            f"{name} imports a model's part"
        )


@pytest.mark.parametrize("leaf", ["observed", "predictors", "scores", "tables", "annotation", "recovery"])
def test_what_reads_cells_and_tables_alone_imports_no_model_machinery(leaf):
    seen, left = set(), [f"samslib.evaluate.{leaf}"]
    while left:
        name = left.pop()
        if name in seen or name == "samslib":
            continue
        seen.add(name)
        left += imports(next(p for p in MODULES if module_name(p) == name))
    machinery = {"samslib.objective", "samslib.nets", "samslib.training", "samslib.evaluate.effects"}
    assert not seen & machinery, f"{leaf} needs {sorted(seen & machinery)}"


def test_plotting_sees_data_frames_only():
    path = ROOT / "samslib" / "plotting.py"
    assert not imports(path), f"plotting.py imports {imports(path)}"
    assert "torch" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "package", ["samslib", "samslib.data", "samslib.datasets", "samslib.evaluate", "samslib.models"]
)
def test_no_name_of_a_package_hides_a_module(package):
    """`samslib.x` is the module x wherever there is one, whatever was imported before."""
    names = [name.rpartition(".")[2] for path in MODULES if (name := module_name(path)).rpartition(".")[0] == package]
    here = vars(importlib.import_module(package))
    hidden = [name for name in names if name in here and not isinstance(here[name], types.ModuleType)]
    assert not hidden, f"{package}.{hidden[0]} is not the module of that name"


def test_no_arrow_points_back_up():
    graph = {module_name(p): imports(p) - {"samslib"} for p in MODULES if module_name(p) != "samslib"}
    done: set[str] = set()
    while ready := {name for name, needs in graph.items() if name not in done and needs & set(graph) <= done}:
        done |= ready
    assert done == set(graph), f"these import each other in a circle: {sorted(set(graph) - done)}"


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
