"""Chapters' parameters are checked, runs are strict, results carry where they came from."""

import json
import re
import subprocess
import sys
from typing import Literal

import nbformat
import pandas as pd
import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbformat.v4 import new_code_cell, new_notebook
from samsbook import parameters, results
from samsbook.__main__ import main
from test_layout import ROOT

PARAMETERS = """steps: int = 3  # training steps
learning_rate: float = 3e-4  # of Adam
posterior: Literal["mean_field", "correlated"] = "correlated"  # of E given M
data: str = "sams-sim"  # a name that datasets.load knows
priors: list[float] = [0.1, 0.01]  # of the masks
sizes: list[int] = []  # of the latent"""


def cell(source, tag=None):
    return new_code_cell(source, metadata={"tags": [tag]} if tag else {})


@pytest.fixture
def chapter(tmp_path):
    cells = [
        cell("from typing import Literal\nimport samsbook"),
        cell(PARAMETERS, "parameters"),
        cell("checked = samsbook.check_parameters(globals(), steps=(1, None))\nprint(checked)"),
        cell("import os\nassert steps != 13, 'unlucky\\nin two lines'\nsteps != 99 or os.kill(os.getpid(), 9)"),
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
    assert list(parameters.check_parameters(given)) == ["steps", "learning_rate", "posterior", "cap"]
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
    with pytest.raises(parameters.ParameterError, match=re.escape(says)):
        parameters.check_parameters(namespace(**changes), **bounds)


def test_a_namespace_without_parameters_is_an_error():
    with pytest.raises(parameters.ParameterError, match="run the cell tagged 'parameters' first"):
        parameters.check_parameters({"steps": 3})


def test_a_chapter_lists_its_parameters(chapter, capsys):
    assert main(["parameters", str(chapter)]) == 0
    listed = capsys.readouterr().out
    assert "'mean_field' or 'correlated'" in listed and "training steps" in listed and "0.0003" in listed
    assert "whole numbers with spaces between them" in listed and "[0.1, 0.01]" in listed


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
    with pytest.raises(parameters.ParameterError, match=says):
        parameters.declared(path)


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
        (["-p", "priors", "0.1;0.01"], "be numbers with spaces between them, but one of them is '0.1;0.01' (str)"),
        (["-p", "sizes", "10 20.5"], "'sizes' must be whole numbers with spaces between them"),
        (["-p", "priors", "0.1 1e999"], "'priors[1]' must be a finite number"),
        (["-f", "none.yaml"], "no parameter file 'none.yaml'"),
    ],
)
def test_a_wrong_run_stops_before_it_starts(chapter, tmp_path, capsys, words, says):
    output = tmp_path / "out.ipynb"
    assert main(["run", str(chapter), "-o", str(output), *words]) == 2
    assert says in capsys.readouterr().err and not output.exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("steps: 7\nlearning_rate: 1: 2\n", "line 2, is not YAML (mapping values are not allowed here): write"),
        ("steps: 7\n\tlatent: 3\n", "mine.yaml, line 2, is not YAML"),
        ("steps: 7\ndata: 'sams\n\n\n", "mine.yaml, line 2, is not YAML"),  # the quote, not the end of the file
        ("priors: [0.1,\nsteps: 7\n\n", "mine.yaml, line 1, is not YAML"),
        ("steps: 7\nlatent\nwidth: 3\n", "mine.yaml, line 2, is not YAML"),
        ("steps 7\n", "mine.yaml must hold lines of `name: value`"),
        ("", "mine.yaml must hold lines of `name: value`"),
        (b"steps: 7 # \xe9\n", "mine.yaml is not a text file in UTF-8"),
        ("steps: 7\x00\n", "mine.yaml is not a text file in UTF-8"),
        ("7: steps\n", "There is no parameter 7: the chapter has steps"),
    ],
)
def test_a_parameter_file_that_is_none_is_told_in_one_line_with_the_place(chapter, tmp_path, capsys, text, says):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["run", str(chapter), "-f", str(path), "-o", str(tmp_path / "out.ipynb")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert says in said and (str(path) in said or "no parameter" in said)


def test_a_notebook_that_cannot_be_written_or_read_is_told_in_one_line(chapter, tmp_path, capsys):
    (tmp_path / "file").write_text("{}")
    for output, why in ((tmp_path, "Is a directory"), (tmp_path / "file" / "out.ipynb", "")):
        assert main(["run", str(chapter), "-o", str(output)]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"The output cannot be written to {output} ({why}") and "-o, such as mine" in said
    for wrong in ("file", "mine.py"):
        (tmp_path / "mine.py").write_text("steps = 3")
        assert main(["run", str(tmp_path / wrong)]) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert f"{wrong} is not a notebook: name one" in said


def test_a_failing_run_leaves_what_it_did_and_one_line(chapter, tmp_path, capsys):
    output = tmp_path / "out.ipynb"
    assert main(["run", str(chapter), "-p", "steps", "13", "-o", str(output)]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"01_tiny.ipynb failed in cell 5: AssertionError: unlucky in two lines. What was run so far is in {output}."
    )
    assert "'steps': 13" in output.read_text()


def test_a_run_that_cannot_start_or_loses_its_kernel_tells_the_remedy(chapter, tmp_path, monkeypatch, capsys):
    said = ["run", str(chapter), "-o", str(tmp_path / "out.ipynb"), "-p", "steps"]
    assert main([*said, "99"]) == 1  # the cell kills its kernel
    assert "lost its kernel, mostly a sign that memory ran out" in capsys.readouterr().err.splitlines()[-1]

    def missing(manager, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", missing)
    assert main([*said, "3"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "Jupyter has no kernel 'python3' to run chapters in: `python -m pip install ipykernel` gives it one."
    )
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert main([*said, "3"]) == 2
    assert "Chapters run with papermill, which is missing: python -m pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, values",
    [("0.1 1e-3", [0.1, 0.001]), ("0.1,1e-3", [0.1, 0.001]), ("[0.1, 1e-3]", [0.1, 0.001]), ("1", [1.0]), ("", [])],
)
def test_a_list_of_numbers_is_read_from_a_shell_a_file_and_papermill(text, values):
    parameter = parameters.Parameter("priors", list[float], [0.5], "")
    assert parameter.check(parameter.read(text)) == values
    given = {"__annotations__": {"priors": "list[float]"}, "priors": text}
    assert parameters.check_parameters(given, priors=(0, 1))["priors"] == values == given["priors"]
    assert all(type(value) is float for value in given["priors"])
    for already in ([0.1, "1e-3"], 0.1):
        assert parameter.check(already)[0] == 0.1
    with pytest.raises(parameters.ParameterError, match=r"'priors\[0\]' must be at least 2"):
        parameters.check_parameters({"__annotations__": {"priors": list[float]}, "priors": "1.5 3"}, priors=(2, None))


def test_plain_papermill_with_an_unknown_name_fails_too(chapter, tmp_path):
    import papermill

    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'steps'"):
        papermill.execute_notebook(
            chapter, tmp_path / "out.ipynb", {"step": 3}, kernel_name="python3", progress_bar=False
        )


def test_the_module_runs_without_a_warning(chapter):
    command = [sys.executable, "-m", "samsbook", "parameters", str(chapter)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""


def test_results_come_back_with_their_provenance(folder):
    frame = pd.DataFrame({"steps": [1, 2], "loss": [0.5, 0.25]})
    path = results.write_results("tiny", frame, {"seed": 3, "steps": 2}, data_sha256="ab" * 32, seconds=1.26)
    assert path == folder / "data" / "results" / "tiny.csv"
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.csv", "tiny.json"]
    back = results.read_results("tiny")
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs["seed"] == 3 and back.attrs["seconds"] == 1.3 and back.attrs["versions"]["torch"]
    assert "seed=3" in results.provenance_table(back).loc["parameters", "value"]


def test_provenance_names_no_machine_or_folder(folder):
    import getpass
    import platform

    told = json.dumps(results.provenance({"seed": 0}))
    assert str(folder) not in told and platform.node() not in told
    assert f"/{getpass.getuser()}" not in told


def test_missing_results_say_what_to_run(folder):
    with pytest.raises(FileNotFoundError, match="no results 'none' .* samsbook run"):
        results.read_results("none")


def test_shown_code_is_the_source():
    shown = results.show(results.results_path).data
    assert shown.startswith("````python\ndef results_path") and "data" in shown
    assert '."""\n    return' in shown and "Parameters" not in shown, "the reference has the whole docstring"


def test_the_training_part_is_the_parameters_and_the_cells_tagged_training(chapter, capsys):
    with pytest.raises(parameters.ParameterError, match="01_tiny.ipynb has no cell tagged 'training'"):
        parameters.training_part(chapter)
    notebook = nbformat.read(chapter, 4)
    for c in notebook.cells[:1] + notebook.cells[2:3]:
        c.metadata["tags"] = ["training"]
    nbformat.write(notebook, chapter)
    assert [c.source for c in parameters.training_part(chapter).cells] == [c.source for c in notebook.cells[:3]]
    ran = chapter.with_name("ran.ipynb")
    assert (
        main(["run", str(chapter), "--training", "-p", "steps", "13", "-o", str(ran)]) == 0
    )  # the last cell would fail
    assert "{'steps': 13" in nbformat.read(ran, 4).cells[-1].outputs[0].text


@pytest.mark.parametrize(
    "chapter, name, value",
    [
        ("04_replogle", "priors", "0.1;0.01"),
        ("04_replogle", "sizes", "40 80.5"),
        ("04_replogle", "betas", "five"),
        ("05_norman_combinatorial", "fractions", "0 half"),
        ("05_norman_combinatorial", "split_seeds", "0-4"),
        ("05_norman_combinatorial", "encodings", "compositional,unique"),
    ],
)
def test_what_a_chapter_takes_several_of_is_refused_before_it_runs(chapter, name, value):
    parameter = parameters.declared(ROOT / "chapters" / f"{chapter}.ipynb")[name]
    with pytest.raises(parameters.ParameterError, match=f"Parameter '{name}' must be"):
        parameter.check(parameter.read(value))
