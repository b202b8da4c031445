"""Chapters' parameters are checked, runs are strict, results carry where they came from."""

import json
import re
import subprocess
import sys
from typing import Literal

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from samslib import book
from samslib.book.__main__ import main

PARAMETERS = """steps: int = 3  # training steps
learning_rate: float = 3e-4  # of Adam
posterior: Literal["mean_field", "correlated"] = "correlated"  # of E given M
data: str = "sams-sim"  # a name that datasets.load knows"""


def cell(source, tag=None):
    return new_code_cell(source, metadata={"tags": [tag]} if tag else {})


@pytest.fixture
def chapter(tmp_path):
    cells = [
        cell("from typing import Literal\nfrom samslib import book"),
        cell(PARAMETERS, "parameters"),
        cell("checked = book.check_parameters(globals(), steps=(1, None))\nprint(checked)"),
        cell("assert steps != 13, 'unlucky'"),
    ]
    path = tmp_path / "01_tiny.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "_toc.yml").write_text("")
    (tmp_path / "chapters").mkdir()
    monkeypatch.chdir(tmp_path / "chapters")
    return tmp_path


def namespace(**changes):
    annotations = {
        "steps": int,
        "learning_rate": "float",
        "posterior": Literal["mean_field", "correlated"],
        "cap": int | None,
    }
    values = {"steps": 3, "learning_rate": 3e-4, "posterior": "correlated", "cap": None}
    return {"__annotations__": annotations, **values, **changes}


def test_right_parameters_come_back_in_order_with_an_int_made_a_float():
    given = namespace(learning_rate=1, cap=4)
    assert list(book.check_parameters(given)) == ["steps", "learning_rate", "posterior", "cap"]
    assert type(given["learning_rate"]) is float and given["cap"] == 4


@pytest.mark.parametrize(
    "changes, bounds, says",
    [
        ({"steps": "many"}, {}, "'steps' must be a whole number, but it is 'many' (str)"),
        ({"steps": True}, {}, "'steps' must be a whole number"),
        ({"steps": 2.0}, {}, "'steps' must be a whole number"),
        ({"learning_rate": True}, {}, "'learning_rate' must be a number"),
        ({"learning_rate": float("nan")}, {}, "'learning_rate' must be a finite number"),
        ({"posterior": "corelated"}, {}, "'posterior' must be 'mean_field' or 'correlated'"),
        ({"cap": "x"}, {}, "'cap' must be a whole number or None"),
        ({"steps": 0}, {"steps": (1, None)}, "'steps' must be at least 1, but it is 0"),
        ({"learning_rate": 2.0}, {"learning_rate": (0, 1)}, "must be at least 0 and at most 1"),
        ({}, {"step": (1, None)}, "no parameter 'step': did you mean 'steps'?"),
        ({"In": ["", "# Parameters\nstep = 5\n"]}, {}, "no parameter 'step': did you mean 'steps'?"),
        ({"In": ["", "# Parameters\nzzz = 5\n"]}, {}, "the chapter has steps, learning_rate"),
    ],
)
def test_wrong_parameters_are_named_with_the_remedy(changes, bounds, says):
    with pytest.raises(book.ParameterError, match=re.escape(says)):
        book.check_parameters(namespace(**changes), **bounds)


def test_a_namespace_without_parameters_is_an_error():
    with pytest.raises(book.ParameterError, match="run the cell tagged 'parameters' first"):
        book.check_parameters({"steps": 3})


def test_a_chapter_lists_its_parameters(chapter, capsys):
    assert main(["parameters", str(chapter)]) == 0
    listed = capsys.readouterr().out
    assert "'mean_field' or 'correlated'" in listed and "training steps" in listed and "0.0003" in listed


@pytest.mark.parametrize(
    "cells, says",
    [
        ([], "has 0 cells tagged 'parameters'"),
        ([cell("a: int = 1", "parameters"), cell("b: int = 1", "parameters")], "has 2 cells tagged"),
        ([cell("steps = 3", "parameters")], "must read like"),
    ],
)
def test_a_notebook_with_an_unclear_parameters_cell_is_refused(tmp_path, cells, says):
    path = tmp_path / "odd.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    with pytest.raises(book.ParameterError, match=says):
        book.declared(path)


def test_a_run_sets_parameters_from_file_and_line(chapter, tmp_path, capsys, caplog):
    (tmp_path / "full.yaml").write_text("steps: 7\nlearning_rate: 1e-3\n")
    output = tmp_path / "out.ipynb"
    said = ["run", str(chapter), "-f", str(tmp_path / "full.yaml"), "-p", "steps", "9", "-o", str(output)]
    assert main([*said, "-p", "posterior", "correlated"]) == 0, capsys.readouterr().err
    assert "'steps': 9, 'learning_rate': 0.001" in output.read_text()
    assert "unknown parameter" not in caplog.text  # which papermill says of every parameter with choices


@pytest.mark.parametrize(
    "words, says",
    [
        (["-p", "step", "3"], "no parameter 'step': did you mean 'steps'?"),
        (["-p", "steps", "many"], "'steps' must be a whole number, but it is 'many'"),
        (["-f", "none.yaml"], "no parameter file 'none.yaml'"),
    ],
)
def test_a_wrong_run_stops_before_it_starts(chapter, tmp_path, capsys, words, says):
    output = tmp_path / "out.ipynb"
    assert main(["run", str(chapter), "-o", str(output), *words]) == 2
    assert says in capsys.readouterr().err and not output.exists()


def test_a_failing_run_leaves_what_it_did_and_one_line(chapter, tmp_path, capsys):
    output = tmp_path / "out.ipynb"
    assert main(["run", str(chapter), "-p", "steps", "13", "-o", str(output)]) == 1
    assert "AssertionError: unlucky" in capsys.readouterr().err.splitlines()[-1]
    assert "'steps': 13" in output.read_text()


def test_plain_papermill_with_an_unknown_name_fails_too(chapter, tmp_path):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'steps'"):
        papermill.execute_notebook(
            chapter, tmp_path / "out.ipynb", {"step": 3}, kernel_name="python3", progress_bar=False
        )


def test_the_module_runs_without_a_warning(chapter):
    command = [sys.executable, "-m", "samslib.book", "parameters", str(chapter)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


def test_results_come_back_with_their_provenance(folder):
    frame = pd.DataFrame({"steps": [1, 2], "loss": [0.5, 0.25]})
    path = book.write_results("tiny", frame, {"seed": 3, "steps": 2}, data_sha256="ab" * 32, seconds=1.26)
    assert path == folder / "data" / "results" / "tiny.csv"
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.csv", "tiny.json"]
    back = book.read_results("tiny")
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs["seed"] == 3 and back.attrs["seconds"] == 1.3 and back.attrs["versions"]["torch"]
    assert "seed=3" in book.provenance_table(back).loc["parameters", "value"]


def test_provenance_names_no_machine_or_folder(folder):
    import getpass
    import platform

    told = json.dumps(book.provenance({"seed": 0}))
    assert str(folder) not in told and platform.node() not in told
    assert f"/{getpass.getuser()}" not in told


def test_missing_results_say_what_to_run(folder):
    with pytest.raises(FileNotFoundError, match="no results 'none' .* samslib.book run"):
        book.read_results("none")


def test_shown_code_is_the_source():
    shown = book.show(book.results_path).data
    assert shown.startswith("````python\ndef results_path") and "data" in shown


def test_the_training_part_is_the_parameters_and_the_cells_tagged_training(chapter, capsys):
    with pytest.raises(book.ParameterError, match="01_tiny.ipynb has no cell tagged 'training'"):
        book.training_part(chapter)
    notebook = nbformat.read(chapter, 4)
    for c in notebook.cells[:1] + notebook.cells[2:3]:
        c.metadata["tags"] = ["training"]
    nbformat.write(notebook, chapter)
    assert [c.source for c in book.training_part(chapter).cells] == [c.source for c in notebook.cells[:3]]
    ran = chapter.with_name("ran.ipynb")
    assert (
        main(["run", str(chapter), "--training", "-p", "steps", "13", "-o", str(ran)]) == 0
    )  # the last cell would fail
    assert "{'steps': 13" in nbformat.read(ran, 4).cells[-1].outputs[0].text
