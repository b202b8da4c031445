"""Named data sets: bundled files, the fetched one, and each way in which a file can be missing or wrong."""

import errno
import hashlib
import http.server
import json
import re
import shutil
import threading
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pooch
import pytest

import samslib
from samslib import datasets
from samslib.data import PerturbationData
from samslib.datasets import DatasetError

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "perturbench-devel.h5ad"
FILE = "perturbench-devel.h5ad"
needs_real = pytest.mark.skipif(not REAL.is_file(), reason=f"the file of the real cells is not at {REAL}")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder served on this machine in place of the public address."""
    folder = tmp_path / "served"
    folder.mkdir()
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets, "ADDRESS", f"http://127.0.0.1:{running.server_port}/devel.h5ad")
        yield folder
        running.shutdown()


def refused(*words, name="norman-devel", path=None):
    with pytest.raises(DatasetError) as caught:
        datasets.load(name, path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def arrays(adata):
    """Everything that an AnnData of ours holds, by name."""
    found = {
        "X": adata.X,
        **{f"layer {k}": v for k, v in adata.layers.items()},
        **{k: v for k, v in adata.obsm.items()},
    }
    found |= {k: adata.uns["truth"][k] for k in adata.uns["truth"]}
    found |= {f"obs {k}": adata.obs[k].astype(str).to_numpy() for k in adata.obs}
    found |= {"cells": adata.obs_names.to_numpy(), "genes": adata.var_names.to_numpy()}
    return {k: v.toarray() if hasattr(v, "toarray") else np.asarray(v) for k, v in found.items()}


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory):
    return datasets.regenerate(tmp_path_factory.mktemp("again"))


@pytest.mark.parametrize("name", ["sams-sim", "sams-pairs"])
def test_bundled_files_are_regenerated_bit_by_bit(name, regenerated):
    bundled = ROOT / "data" / f"{name}.h5ad"
    new, old = arrays(ad.read_h5ad(regenerated[name])), arrays(datasets.load(name))
    assert list(new) == list(old)
    for key in new:
        assert new[key].dtype == old[key].dtype, key
        np.testing.assert_array_equal(new[key], old[key], err_msg=key)
    assert bundled.stat().st_size < 2_000_000
    digest = hashlib.sha256(bundled.read_bytes()).hexdigest()
    sheet = (ROOT / "data" / "README.md").read_text()
    assert digest in sheet, "the datasheet states the checksum of the bundled file"
    with_versions = all(f"{p} {version(p)}" in sheet for p in ("anndata", "h5py"))
    if with_versions:  # another library may lay out the same numbers in other bytes
        assert digest == hashlib.sha256(regenerated[name].read_bytes()).hexdigest()


def test_regenerate_leaves_only_whole_files(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "sams-sim.h5ad").write_text("old")
    monkeypatch.setattr(ad.AnnData, "write_h5ad", full)
    with pytest.raises(DatasetError, match="sams-sim.h5ad cannot be written .*No space left"):
        datasets.regenerate(tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("sams-sim.h5ad", "old")]
    assert datasets._main(["regenrate"]).startswith("usage: python -m samslib.datasets regenerate")


def test_the_bundled_sets_are_what_is_said_of_them():
    table = datasets.describe()
    for name in ("sams-sim", "sams-pairs"):
        adata, row = datasets.load(name), table.loc[name]
        real = row["values"] == "real"
        data = PerturbationData.from_anndata(adata, control=row["control"], counts=not real)
        assert data.shape == (row["cells"], row["genes"])
        assert (len(data.perturbations), len(data.conditions())) == (row["perturbations"], row["conditions"])
        truth = adata.uns["truth"]
        assert tuple(truth["perturbations"]) == data.perturbations
        shift = data.dose.toarray() @ (truth["M"] * truth["E"])
        np.testing.assert_allclose(adata.obsm["z_basal"] + shift, adata.obsm["z"], atol=1e-5)
        made = adata.uns["simulation"]
        again = getattr(samslib.simulate, made["generator"])(
            seed=int(made["seed"]), **{k: _tuple(v) for k, v in json.loads(made["parameters"]).items()}
        )
        np.testing.assert_allclose(
            _dense(again.X), _dense(adata.X), atol=1 / 512
        )  # sams-sim is rounded to steps of 1/256
    assert datasets.load("sams-sim").obs["split"].value_counts().to_dict() == {
        "train": 1800,
        "val": 600,
        "test": 600,
    }


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def _dense(x):
    return x.toarray() if hasattr(x, "toarray") else x


def test_unknown_names():
    refused(
        "no data set 'sams-pair'",
        "did you mean 'sams-pairs'?",
        "Known: sams-sim, sams-pairs, norman-devel",
        name="sams-pair",
    )
    refused("no data set 'replogle'", name="replogle")


def test_bundled_files_that_are_missing_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSLIB_DATA", str(tmp_path))
    refused(tmp_path / "sams-sim.h5ad", "python -m samslib.datasets regenerate", "SAMSLIB_DATA", name="sams-sim")
    assert not datasets.describe().loc["sams-sim", "here"]
    (tmp_path / "sams-sim.h5ad").write_bytes((ROOT / "data" / "sams-sim.h5ad").read_bytes()[:5000])
    refused("sams-sim.h5ad cannot be read", "python -m samslib.datasets regenerate", name="sams-sim")
    shutil.copy(ROOT / "data" / "sams-sim.h5ad", tmp_path / "mine.h5ad")
    assert datasets.load("sams-sim", tmp_path / "mine.h5ad").n_obs == 3000
    refused("there.h5ad", name="sams-pairs", path=tmp_path / "there.h5ad")


@needs_real
def test_norman_counts_are_exact(cache):
    cache.mkdir()
    (cache / FILE).symlink_to(REAL)
    adata = datasets.load("norman-devel")
    counts = adata.X.toarray()
    assert adata.shape == (3375, 500) and adata.X.dtype == np.float32
    assert (counts == np.rint(counts)).all() and counts.min() == 0
    raw = ad.read_h5ad(REAL)
    raw = raw[raw.obs["dataset"] == "norman19"]
    total = np.expm1(raw.X.toarray())
    ratio = np.where(counts > 0, total, np.nan) / np.where(counts > 0, counts, 1)
    np.testing.assert_allclose(np.nanmax(ratio, 1), np.nanmin(ratio, 1), rtol=1e-10)  # one quantum a cell
    per_cell = np.nanmax(ratio, 1) * adata.obs["ncounts"].to_numpy() / 1e4
    assert 0.99 < per_cell.min() and per_cell.max() < 1.03, "a count of one everywhere, in the two odd cells too"
    smallest = np.array([row[row > 0].min() for row in counts])
    assert (smallest == 2).sum() == 2 and (smallest == 1).sum() == 3373
    row = datasets.describe().loc["norman-devel"]
    data = PerturbationData.from_anndata(adata)
    assert data.shape == (row["cells"], row["genes"]) and row["here"]
    assert (len(data.perturbations), len(data.conditions())) == (row["perturbations"], row["conditions"])
    assert adata.uns["source"]["sha256"] == datasets.SHA256


@needs_real
def test_norman_is_fetched_once_and_a_damaged_copy_is_replaced(cache, server, monkeypatch):
    shutil.copy(REAL, server / "devel.h5ad")
    assert datasets.load("norman-devel").n_obs == 3375
    assert [p.name for p in cache.iterdir()] == [FILE]
    with monkeypatch.context() as patched:
        patched.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("fetched again"))
        assert datasets.load("norman-devel").n_obs == 3375
    (cache / FILE).chmod(0o644)
    (cache / FILE).write_bytes(b"half a file")
    assert datasets.load("norman-devel").n_obs == 3375


def test_wrong_bytes_are_not_kept(cache, server):
    (server / "devel.h5ad").write_bytes(b"another file")
    refused("sha256", datasets.SHA256, "was not kept", datasets.ADDRESS, cache / FILE)
    assert list(cache.iterdir()) == []


def test_no_network_and_no_cache(cache, server, monkeypatch):
    refused("could not be fetched", datasets.ADDRESS, cache / FILE)  # the address answers 404
    monkeypatch.setattr(datasets, "ADDRESS", "http://127.0.0.1:9/devel.h5ad")
    refused("could not be fetched", "http://127.0.0.1:9/devel.h5ad", cache / FILE)
    (cache / FILE).write_bytes(b"half a file")
    refused("the file that is there is damaged", cache / FILE)


def test_a_cache_folder_that_cannot_be_used(cache, server, monkeypatch):
    (server / "devel.h5ad").write_bytes(b"bytes")
    cache.write_text("a file where the folder should be")
    refused(f"cache folder {cache} cannot be used", "SAMSLIB_CACHE")
    for number in (errno.ENOSPC, errno.EACCES):

        def fail(*_, number=number, **__):
            raise OSError(number, "No space left on device" if number == errno.ENOSPC else "Permission denied")

        monkeypatch.setattr(pooch, "retrieve", fail)
        monkeypatch.setenv("SAMSLIB_CACHE", str(cache.with_name("elsewhere")))
        refused(
            "cannot be used (",
            "No space left" if number == errno.ENOSPC else "Permission denied",
            "free or unlock it",
        )


def test_a_path_of_ones_own_is_checked_too(tmp_path):
    refused(tmp_path / "none.h5ad", datasets.ADDRESS, path=tmp_path / "none.h5ad")
    (tmp_path / "wrong.h5ad").write_bytes(b"wrong")
    refused("is not the file of 'norman-devel'", datasets.SHA256, path=tmp_path / "wrong.h5ad")
    if REAL.is_file():
        assert datasets.load("norman-devel", REAL).n_obs == 3375


def test_a_file_that_passes_but_cannot_be_read(cache, monkeypatch):
    cache.mkdir()
    (cache / FILE).write_bytes(b"not an h5ad")
    monkeypatch.setattr(datasets, "SHA256", hashlib.sha256(b"not an h5ad").hexdigest())
    refused(f"{FILE} cannot be read", "delete it and load again")


def test_the_platform_cache_is_the_default(monkeypatch):
    monkeypatch.delenv("SAMSLIB_CACHE", raising=False)
    assert datasets._place(datasets.DATASETS["norman-devel"]) == Path(pooch.os_cache("samslib")) / FILE
    assert re.fullmatch(
        r"https://raw\.githubusercontent\.com/altoslabs/perturbench/[0-9a-f]{40}/.*/devel\.h5ad",
        datasets.ADDRESS,
    )
