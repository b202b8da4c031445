from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from conftest import SMALL, LinearGaussian, make_data

import samslib
from samslib import FitConfig, checkpoint, fit, load, save
from samslib.model import DEFINED


def test_summary_and_types_survive(model, tmp_path):
    model.double()
    again = load(save(model, tmp_path / "m.safetensors"))
    assert next(again.parameters()).dtype == torch.float64
    for name in ("genes", "perturbations", "n_treated", "control", "targets"):
        assert getattr(again.summary, name) == getattr(model.summary, name)
    assert torch.equal(again.summary.log_mean, model.summary.log_mean)


def test_damaged_and_foreign_files_are_said_to_be_so(model, tmp_path):
    path = save(model, tmp_path / "m.safetensors")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut is damaged"):
        load(tmp_path / "cut")
    (tmp_path / "text").write_text("not a model")
    with pytest.raises(ValueError, match="text is damaged"):
        load(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no samslib model file"):
        load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="nothing"):
        load(tmp_path / "nothing")


def test_a_file_of_another_format_is_refused_and_a_file_is_readable_as_others_are(model, tmp_path, monkeypatch):
    path, plain = save(model, tmp_path / "m.safetensors"), tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(ValueError, match="no samslib model file of format 2"):
        load(path)


def test_nothing_is_half_written(model, tmp_path, monkeypatch):
    path = save(model, tmp_path / "m.safetensors")
    before = path.read_bytes()

    def no_space(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", no_space)
    with pytest.raises(OSError, match="No space left.*untouched"):
        save(model, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.safetensors"]
    with pytest.raises(OSError, match="cannot be written"):
        save(model, tmp_path / "no folder" / "m.safetensors")


def test_no_pickle_is_read(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "pickled")
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        load(tmp_path / "pickled")


# --- classes of one's own -----------------------------------------------------------------------------------

CELL = """
import torch
from samslib.distributions import Normal
from samslib.model import Model

class Mine(Model):
    def __init__(self, summary, width=2, scale=1.0):
        super().__init__(summary, locals())
        self.centre = torch.nn.Parameter(torch.randn(len(summary.genes)))

    def generate(self, t, c):
        mean = self.centre.expand(t.particles, len(c), -1)
        return Normal(mean, torch.ones_like(mean))

    def infer_shared(self, t): ...
    def infer_cells(self, t, b): ...
"""


@pytest.fixture
def run_cell(monkeypatch):
    """Runs a notebook's cell that defines `Mine` and gives the class; the session forgets it afterwards."""

    def run(cell=CELL, module="__main__"):
        monkeypatch.setitem(DEFINED, (module, "Mine"), samslib.SAMSVAE)  # until the cell runs
        names = {"__name__": module}
        exec(cell, names)
        return names["Mine"]

    return run


def test_a_class_of_a_notebook_is_saved_and_loaded(run_cell, tmp_path):
    Mine = run_cell()
    model = Mine(make_data().summary(), scale=0.5)
    again = load(save(model, tmp_path / "m"))
    assert type(again) is Mine and again.options == {"width": 2, "scale": 0.5}
    assert torch.equal(again.centre, model.centre)
    other = LinearGaussian(make_data().summary())
    assert type(load(save(other, tmp_path / "n"))) is LinearGaussian


def test_of_a_class_defined_twice_the_newest_or_the_one_given_is_loaded(run_cell, tmp_path):
    old = run_cell()
    path = save(old(make_data().summary()), tmp_path / "m")
    new = run_cell()
    assert type(load(path)) is new is not old and type(load(path, kind=old)) is old
    elsewhere = run_cell(module="screens")
    assert type(load(path)) is new and type(load(path, kind=elsewhere)) is elsewhere


def test_a_class_that_is_not_there_is_named_with_the_remedy(run_cell, tmp_path, monkeypatch):
    path = save(run_cell()(make_data().summary()), tmp_path / "m")
    monkeypatch.delitem(DEFINED, ("__main__", "Mine"))
    with pytest.raises(ValueError, match=r"Mine of __main__, and no such class is here; run or import.*kind=Mine\)"):
        load(path)
    moved = run_cell(module="screens")
    assert type(load(path)) is moved
    run_cell(module="trials")
    with pytest.raises(ValueError, match=r"several classes of that name are, in.*\['screens', 'trials'\].*kind=Mine\)"):
        load(path)


def test_a_class_that_has_changed_since_is_said_to_have(run_cell, tmp_path):
    path = save(run_cell()(make_data().summary()), tmp_path / "m")
    for before, after, why in [
        ("scale=1.0", "size=1.0", "unexpected keyword argument 'scale'"),
        ("width=2, scale=1.0", "size, width=2, scale=1.0", "missing 1 required positional argument: 'size'"),
        (
            "len(summary.genes)",
            "3",
            r"size mismatch for centre: .*\[12\]. from checkpoint, .* current model is .*\[3\]",
        ),
        ("self.centre =", "self.middle =", 'Missing key.* "middle"'),
    ]:
        run_cell(CELL.replace(before, after))
        with pytest.raises(ValueError, match=f"(?s)m does not fit Mine as it is defined now: .*{why}.*kind="):
            load(path)
    with pytest.raises(ValueError, match="does not fit SAMSVAE.*'width'.*kind="):
        load(path, kind=samslib.SAMSVAE)


def test_a_class_named_as_one_of_the_library_is_not_taken_for_it(run_cell, tmp_path, monkeypatch):
    names = {"__name__": "__main__"}
    exec(CELL.replace("Mine", "SAMSVAE"), names)
    path = save(names["SAMSVAE"](make_data().summary()), tmp_path / "m")
    assert type(load(path)) is names["SAMSVAE"]
    assert type(load(save(samslib.SAMSVAE(make_data().summary(), **SMALL), tmp_path / "n"))) is samslib.SAMSVAE
    monkeypatch.delitem(DEFINED, ("__main__", "SAMSVAE"))
    with pytest.raises(ValueError, match="class SAMSVAE of __main__, and no such class"):
        load(path)


def test_options_come_back_as_they_were_or_are_refused(run_cell, tmp_path):
    Mine, data = run_cell(), make_data()
    for value in (None, True, 3, 0.1, "a", (64, (64, "b")), {"a": (1, 2)}):
        assert load(save(Mine(data.summary(), width=value), tmp_path / "m")).options["width"] == value
    for value in (np.ones(2), torch.ones(2), [64, 64], {1: 2}, torch.relu, np.int64(3), float("nan")):
        model = Mine(data.summary(), width=value)
        text = f"option width of Mine is a {type(value).__name__}, which a file cannot hold.*make it a number"
        with pytest.raises(ValueError, match=text):
            save(model, tmp_path / "m")
        quick = {"steps": 1, "progress": False}
        fit(model, data, None, FitConfig(**quick))
        with pytest.raises(ValueError, match=text):
            fit(model, data, None, FitConfig(checkpoints=tmp_path / "run", **quick))


def test_a_device_that_is_not_there_is_said_to_be_so(tmp_path):
    path = save(samslib.CPAVAE(make_data().summary(), **SMALL), tmp_path / "m")
    with pytest.raises(ValueError, match=f"Device 'cuda:{torch.cuda.device_count()}' cannot be used here; take 'cpu'"):
        load(path, device=f"cuda:{torch.cuda.device_count()}")
    assert next(load(path, device="auto").parameters()).is_cuda == torch.cuda.is_available()
