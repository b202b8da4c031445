from __future__ import annotations

import os

import pytest
import torch

from samslib import checkpoint, load, save


def test_summary_and_types_survive(model, tmp_path):
    model.double()
    again = load(save(model, tmp_path / "m.safetensors"))
    assert next(again.parameters()).dtype == torch.float64
    for name in ("genes", "perturbations", "n_treated", "control"):
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
