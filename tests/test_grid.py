"""The grid: a plan becomes runs, a run one checked row, and a kill -9 costs what was in flight and no more."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pandas as pd
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook
from samsbook import grid
from samsbook.parameters import ParameterError
from test_layout import ROOT

PARAMETERS = """only: str = "a"  # a model
seed: int = 0  # of training
rate: float = 0.5  # of learning
results: str = ""  # name of a table"""

# Each start is noted, so that one can count what was done twice. While the file `hold` is there, runs of "c" hang.
TRAINING = """import time
import pandas as pd
import samsbook
with open("../started", "a") as file:
    file.write(f"{only}{seed}\\n")
while only == "c" and samsbook.root().joinpath("hold").exists():
    time.sleep(0.1)
if only == "bad":
    raise ArithmeticError("the loss is not a number")
rows = [{"model": only, "seed": seed, "score": float(rate) if only != "diverged" else float("inf")}]
frame = pd.DataFrame(rows * (2 if only == "twice" else 1))
samsbook.write_results(results, frame, parameters={"rate": rate}, seconds=1.0)"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A book with one chapter, for a grid whose only preset is "tiny"."""
    for name in ("chapters", "book", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "_toc.yml").write_text("")
    shutil.copy(ROOT / "Snakefile", tmp_path)
    tag = lambda source, *tags: new_code_cell(source, metadata={"tags": list(tags)})  # noqa: E731
    cells = [tag(PARAMETERS, "parameters"), tag(TRAINING, "training"), tag("1 / 0")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "chapters" / "01_tiny.ipynb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def write_plan(folder, models, seeds=(0, 1), **spec):
    spec = {"chapter": "chapters/01_tiny.ipynb", "axes": {"only": models, "seed": list(seeds)}} | spec
    (folder / "book" / "grid.yaml").write_text(yaml.safe_dump({"tiny": {"demo": spec}}))


def start(folder, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "samsbook.grid", "run", "tiny", *words],
        cwd=folder, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def started(folder):
    path = folder / "started"
    return sorted(path.read_text().split()) if path.exists() else []


def rows(folder):
    return sorted(path.stem for path in folder.glob("data/results/grid/tiny/demo/*.csv"))


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_books_own_plan_is_sound_and_its_page_counts_its_runs():
    page = (ROOT / "book" / "grid.md").read_text(encoding="utf-8")
    for preset in grid.plan():
        told = re.search(rf"^\| `{preset}` \|.*\| (\d+) \|$", page, re.MULTILINE)
        assert told and int(told[1]) == len(grid.runs(preset)), preset


def test_runs_are_variants_times_axes_on_top_of_file_and_parameters(folder):
    (folder / "book" / "common.yaml").write_text("rate: 0.1\nresults: lost\n")
    variants = [{"only": "a"}, {"only": "b", "seed": 7}]
    spec = {"file": "book/common.yaml", "axes": {"seed": [0, 1]}, "variants": variants}
    write_plan(folder, [], **spec)
    runs = grid.runs("tiny")
    assert list(runs) == ["tiny/demo/a_0", "tiny/demo/a_1", "tiny/demo/b_7"]
    assert runs["tiny/demo/b_7"].parameters == {"only": "b", "seed": 7, "rate": 0.1}
    write_plan(folder, [], **spec, parameters={"rate": 0.2})
    assert {run.parameters["rate"] for run in grid.runs("tiny").values()} == {0.2}


@pytest.mark.parametrize(
    "models, spec, error, says",
    [
        (["a"], {"axis": {}}, grid.GridError, "tiny, demo: there is no key 'axis'; use chapter"),
        (["a"], {"parameters": {"rat": 1}}, ParameterError, "no parameter 'rat': did you mean 'rate'"),
        (["a"], {"parameters": {"rate": "fast"}}, ParameterError, "'rate' must be a number"),
        (["a b", "a-b"], {}, grid.GridError, "two runs are called tiny/demo/a-b_0"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(folder, models, spec, error, says):
    write_plan(folder, models, **spec)
    with pytest.raises(error, match=says):
        grid.runs("tiny")


def test_a_plan_or_file_that_cannot_be_read_is_told_with_its_place(folder, capsys):
    write_plan(folder, ["a"], file="book/none.yaml")
    assert grid.main(["list", "tiny"]) == 2 and "no parameter file" in capsys.readouterr().err
    (folder / "book" / "none.yaml").write_text("rate: 0.1\nonly: a: b\n")
    assert grid.main(["list", "tiny"]) == 2 and "none.yaml, line 2, is not YAML" in capsys.readouterr().err
    (folder / "book" / "grid.yaml").write_text("tiny:\n\tdemo: {}\n")
    assert grid.main(["list", "tiny"]) == 2 and "grid.yaml, line 2, is not YAML" in capsys.readouterr().err


def test_unknown_names_are_told(folder, capsys):
    assert grid.main(["list", "tiny"]) == 2 and "no book/grid.yaml" in capsys.readouterr().err
    write_plan(folder, ["a"])
    assert grid.main(["run", "tny"]) == 2 and "no preset 'tny'" in capsys.readouterr().err
    assert grid.main(["one", "tiny/demo/z_0"]) == 2 and "no run 'tiny/demo/z_0'" in capsys.readouterr().err
    assert grid.main(["gather", "tiny", "--cores"]) == 2 and "'--cores' is not understood" in capsys.readouterr().err


@pytest.mark.parametrize(
    "trial, says", [("twice", "wrote 2 rows"), ("diverged", "wrote score = inf: the training diverged")]
)
def test_a_row_that_is_not_one_finite_row_does_not_stay(folder, trial, says):
    write_plan(folder, [trial], seeds=[0])
    with pytest.raises(grid.GridError, match=says):
        grid.one(f"tiny/demo/{trial}_0")
    assert rows(folder) == []


def test_a_failing_run_leaves_the_others_and_is_listed_with_its_reason(folder, capfd):
    write_plan(folder, ["bad", "a"], seeds=[0])
    assert grid.main(["run", "tiny"]) == 1
    told = capfd.readouterr().out
    assert "1 of 2 runs are missing:\n  tiny/demo/bad_0: 01_tiny.ipynb failed in cell" in told
    assert "ArithmeticError: the loss is not a number" in told
    gathered = pd.read_csv(folder / "data" / "results" / "grid-tiny-demo.csv")
    assert gathered[["model", "seed", "score"]].values.tolist() == [["a", 0, 0.5]]
    assert set(gathered) >= {"commit", "machine"}
    # A row stays unless its parameters change, and then it is not gathered as if it were the new one.
    (folder / "started").unlink()
    write_plan(folder, ["a"], seeds=[0])
    assert grid.main(["run", "tiny"]) == 0 and started(folder) == []
    write_plan(folder, ["a"], seeds=[0], parameters={"rate": 0.25})
    capfd.readouterr()
    assert grid.main(["gather", "tiny"]) == 1
    assert "a_0 was made with rate = 0.5, and book/grid.yaml says 0.25" in capfd.readouterr().out
    assert grid.main(["run", "tiny"]) == 0 and started(folder) == ["a0"]
    assert pd.read_csv(folder / "data" / "results" / "grid-tiny-demo.csv")["score"].tolist() == [0.25]


def test_after_kill_9_only_what_was_in_flight_is_made_again(folder):
    write_plan(folder, ["a", "b", "c"], seeds=[0])
    (folder / "hold").touch()
    first = start(folder, "--cores", "2")
    # c hangs, and Snakemake has noted that a and b are done: it takes its mark of an unfinished row away.
    unfinished = folder / ".snakemake" / "incomplete"
    until(lambda: len(rows(folder)) == 2 and len(started(folder)) == 3 and len(list(unfinished.iterdir())) == 1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = start(folder)  # the first one's Snakemake lives on, and a second one would tread on it
    assert "Another `grid run` is at work" in second.communicate(timeout=120)[0] and second.returncode == 2
    os.killpg(first.pid, signal.SIGKILL)
    assert started(folder) == ["a0", "b0", "c0"] and rows(folder) == ["a_0", "b_0"]
    (folder / "hold").unlink()
    again = start(folder)
    assert again.wait(timeout=240) == 0, again.communicate()[0]
    assert started(folder) == ["a0", "b0", "c0", "c0"]
    assert pd.read_csv(folder / "data" / "results" / "grid-tiny-demo.csv")["model"].tolist() == ["a", "b", "c"]


def test_every_gpu_is_given_to_one_run_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(grid, "gpus", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with grid._a_gpu() as first, grid._a_gpu() as second:
        assert (first, second) == ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"})
    with grid._a_gpu() as third:
        assert third == {"CUDA_VISIBLE_DEVICES": "0"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # a scheduler has chosen
    with grid._a_gpu() as chosen:
        assert chosen == {}
