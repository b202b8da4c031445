"""Named data sets: bundled files, the fetched one, and each way in which a file can be missing or wrong."""

import errno
import hashlib
import http.server
import json
import logging
import re
import resource
import shutil
import threading
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pooch
import pytest
import test_readers as small
from test_readers import sums  # noqa: F401  a fixture

import samslib
from samslib import datasets
from samslib.data.container import PerturbationData
from samslib.datasets import DATASETS, DatasetError
from samslib.datasets.__main__ import main
from samslib.datasets.registry import sha256

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "perturbench-devel.h5ad"
GLIOBLASTOMA = REAL.parent / "public" / "glioblastoma_example_data.rda"
TAPSEQ = {
    "tapseq-counts.csv": REAL.parent / "public" / "gene_expression_counts.csv",
    "tapseq-guides.h5ad": REAL.parent / "public" / "gRNA_counts.h5ad",
}
FILE = "perturbench-devel.h5ad"
DEVEL = DATASETS["norman-devel"].files[0]
OFFLINE = "http://127.0.0.1:9/"
WRITERS = {  # name -> what writes a small file of the schema
    "norman": small.norman_file,
    "norman-scperturb": partial(small.scperturb_file, perturbation=["control", "KLF1", "KLF1_MAP2K6"]),
    "replogle": small.replogle_file,
    "replogle-raw": small.replogle_raw_file,
    "adamson": partial(small.scperturb_file, perturbation=["62(mod)_pBA581", "SPI1_pDS255"], cells=25),
    "dixit": lambda path: small.write(path, small.counts(2, 5), {"EGR1": [0, 1], "combined_guides": ["", "EGR1"]}),
    "tapseq": small.tapseq_files,
    "tapseq-multiplets": small.tapseq_files,
    "glioblastoma": small.glioblastoma_file,
    "kang": lambda path: small.write(path, small.counts(2, 5), {"label": ["ctrl", "stim"], "cell_type": "B"}),
    **{
        name: partial(
            small.scperturb_file, perturbation=["control", "SAHA"], dose_value=[0.0, 1.0], cell_line=["A549", "A549"]
        )
        for name in ("sciplex2", "sciplex3")
    },
}
needs_real = pytest.mark.skipif(not REAL.is_file(), reason=f"the file of the real cells is not at {REAL}")
needs_tapseq = pytest.mark.skipif(
    not all(path.is_file() for path in TAPSEQ.values()),
    reason=f"the files of TAP-seq are not in {REAL.parent / 'public'}",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and breaks off in the middle of a file whose name ends in .cut."""

    def log_message(self, *_):
        pass

    def copyfile(self, source, outputfile):
        body = source.read()
        outputfile.write(body[: len(body) // 2] if self.path.endswith(".cut") else body)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder served on this machine in place of the public addresses: each file under its name in the cache."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        for name in datasets.SOURCES:
            move(monkeypatch, name, f"http://127.0.0.1:{running.server_port}/")
        yield folder
        running.shutdown()


def move(monkeypatch, name, to, **changes):
    """Other addresses for the files of a data set, and other things known of the first of them."""
    first, *more = DATASETS[name].files
    files = (replace(first, **changes), *more)
    files = tuple(replace(file, address=to if to.endswith(".cut") else to + file.name) for file in files)
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], files=files))


def address(name):
    return DATASETS[name].files[0].address


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
    assert main(["regenrate"]).startswith("usage: python -m samslib.datasets regenerate")


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
    refused("no data set 'jurkat'", name="jurkat")


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
    assert adata.uns["source"]["sha256"] == DEVEL.sha256


@needs_real
def test_norman_is_fetched_once_and_a_damaged_copy_is_replaced(cache, server, monkeypatch):
    shutil.copy(REAL, server / FILE)
    assert datasets.load("norman-devel").n_obs == 3375
    assert [p.name for p in cache.iterdir()] == [FILE]
    with monkeypatch.context() as patched:
        patched.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("fetched again"))
        assert datasets.load("norman-devel").n_obs == 3375
    (cache / FILE).chmod(0o644)
    (cache / FILE).write_bytes(b"half a file")
    assert datasets.load("norman-devel").n_obs == 3375


def test_wrong_bytes_are_not_kept(cache, server):
    (server / FILE).write_bytes(b"another file")
    refused("sha256", DEVEL.sha256, "was not kept", address("norman-devel"), cache / FILE)
    assert list(cache.iterdir()) == []


def test_no_network_and_no_cache(cache, server, monkeypatch):
    refused("could not be fetched", address("norman-devel"), cache / FILE)  # the address answers 404
    move(monkeypatch, "norman-devel", OFFLINE)
    refused("could not be fetched", OFFLINE + FILE, cache / FILE)
    (cache / FILE).write_bytes(b"half a file")
    refused("the file that is there is damaged", cache / FILE)


def test_a_cache_folder_that_cannot_be_used(cache, server, monkeypatch):
    (server / FILE).write_bytes(b"bytes")
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
    refused(tmp_path / "none.h5ad", DEVEL.address, path=tmp_path / "none.h5ad")
    (tmp_path / "wrong.h5ad").write_bytes(b"wrong")
    refused("is not the file of 'norman-devel'", DEVEL.sha256, path=tmp_path / "wrong.h5ad")
    if REAL.is_file():
        assert datasets.load("norman-devel", REAL).n_obs == 3375


def test_a_file_that_passes_but_cannot_be_read(cache, monkeypatch):
    cache.mkdir()
    (cache / FILE).write_bytes(b"not an h5ad")
    move(monkeypatch, "norman-devel", OFFLINE, sha256=hashlib.sha256(b"not an h5ad").hexdigest())
    refused(f"{FILE} cannot be read", "delete it and load again")


def test_the_platform_cache_is_the_default(monkeypatch):
    monkeypatch.delenv("SAMSLIB_CACHE", raising=False)
    assert datasets._place(datasets.DATASETS["norman-devel"]) == Path(pooch.os_cache("samslib")) / FILE
    assert re.fullmatch(
        r"https://raw\.githubusercontent\.com/altoslabs/perturbench/[0-9a-f]{40}/.*/devel\.h5ad",
        DEVEL.address,
    )


# --- the public screens, in small files of their schemas -------------------------------------------------------


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """A small file of every schema, written once."""
    folder = tmp_path_factory.mktemp("small")
    small.lists_file(folder / "replogle-lists.ipynb")
    for name, write in WRITERS.items():
        write(folder / DATASETS[name].files[0].name)
    return folder


@pytest.fixture
def published(server, small_files, monkeypatch, sums):  # noqa: F811
    """The small files on the server, with the size and sum that are known of each."""
    shutil.copytree(small_files, server, dirs_exist_ok=True)
    for name in WRITERS:
        files = [replace(f, sha256=f.sha256 and sha256(server / f.name)) for f in DATASETS[name].files]
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], files=files))
        known = {"shape": ad.read_h5ad(server / files[0].name).shape} if files[0].shape else {}
        move(monkeypatch, name, files[0].address.removesuffix(files[0].name), gigabytes=0, **known)
    return server


def test_every_public_set_has_a_small_file_here():
    assert set(WRITERS) | {"norman-devel", "mcfaline-devel"} == set(datasets.SOURCES)


@pytest.mark.parametrize("name", WRITERS)
def test_a_public_set_is_fetched_once_checked_and_read_again_offline(name, cache, published, monkeypatch, capfd):
    first = datasets.load(name)
    known = DATASETS[name]
    assert "control" in set(first.obs["perturbation"]) and known.files[0].name in capfd.readouterr().err  # a bar
    source = first.uns["source"]
    assert (source["address"], source["licence"]) == (known.files[0].address, known.licence)
    assert sorted(p.name for p in cache.iterdir()) == sorted(file.name for file in known.files)
    assert datasets.describe().loc[name, "here"]
    move(monkeypatch, name, OFFLINE)
    again = datasets.load(name)
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    assert datasets.sha256(name) == hashlib.sha256((cache / known.files[0].name).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [name for name in WRITERS if DATASETS[name].files[0].needs])
def test_every_public_set_takes_a_file_of_ones_own(name, cache, published, tmp_path, monkeypatch, caplog):
    own = shutil.copy(published / DATASETS[name].files[0].name, tmp_path / "mine.h5ad")
    refused("There is no file", tmp_path / "no.h5ad", name=name, path=tmp_path / "no.h5ad")
    move(monkeypatch, name, address(name).rsplit("/", 1)[0] + "/", shape=(7, 7), sha256="")
    with caplog.at_level(logging.WARNING):
        assert datasets.load(name, own).n_obs > 0
    assert "where (7, 7) were published; it is read all the same" in caplog.text.replace(str(own), "")
    assert not (cache / DATASETS[name].files[0].name).exists()
    small.write(tmp_path / "other.h5ad", small.counts(3, 4), {"a": [1.5, 2.5, 3.5]})
    word = "no column of obs" if name == "dixit" else "has no "
    refused(tmp_path / "other.h5ad", word, address(name), name=name, path=tmp_path / "other.h5ad")


def test_a_file_of_ones_own_that_cannot_be_read(tmp_path):
    path = small.scperturb_file(tmp_path / "mine.h5ad", ["a"], dose_value=[1.0], cell_line=["A549"])
    with small.h5py.File(path, "r+") as file:
        del file["X/data"]
    refused(
        f"{path} cannot be read", "the file of 'sciplex2' is had from", address("sciplex2"), name="sciplex2", path=path
    )


def test_what_is_refused_leaves_nothing_and_says_how_to_go_on(cache, published, monkeypatch):
    place, home = cache / "norman.h5ad", address("norman").removesuffix("norman.h5ad")
    go_on = [f"`curl -L -C - -o {place} {home}", "exampledata.scverse.org", "load('norman-scperturb')"]
    go_on += ["load('norman', path=...)", "aws s3 cp s3://"]

    def check(*words):
        refused(*words, *go_on, name="norman")
        assert not list(cache.iterdir())

    whole = (published / "norman.h5ad").read_bytes()
    (published / "norman.h5ad").write_bytes(b"<html>please log in</html>")
    check("is no whole HDF5 file", "was not kept")
    (published / "norman.h5ad").write_bytes(whole[:-100])  # whole for the server, whose own file is cut
    check("is no whole HDF5 file", "was not kept")
    small.write(published / "norman.h5ad", small.counts(3, 4), {"guide_identity": ["a", "b", "c"]})
    check("has no layers/counts and no var/highly_variable", "was not kept")
    small.norman_file(published / "norman.h5ad")
    move(monkeypatch, "norman", home, shape=(111, 6))
    check("holds (4, 6) cells and genes, where (111, 6) were published", "was not kept")
    (published / "norman.h5ad").unlink()
    check("could not be fetched from", "HTTPError 404")
    (published / "norman.h5ad.cut").write_bytes(whole)
    move(monkeypatch, "norman", home + "norman.h5ad.cut")
    check("could not be fetched from", "ChunkedEncodingError")
    move(monkeypatch, "norman", OFFLINE)
    go_on[0] = f"`curl -L -C - -o {place} {OFFLINE}norman.h5ad`"
    check("could not be fetched from", "ConnectionError")


def test_a_download_by_hand_that_is_not_done_is_left_alone(cache, published):
    whole = (published / "norman.h5ad").read_bytes()
    cache.mkdir()
    (cache / "norman.h5ad").write_bytes(whole[:5000])
    refused("is no whole HDF5 file", "delete it and load again", "curl -L -C - -o", name="norman")
    assert (cache / "norman.h5ad").read_bytes() == whole[:5000]
    (cache / "norman.h5ad").write_bytes(whole)
    assert datasets.load("norman").n_obs == 4


def test_a_disk_that_fills_leaves_nothing(cache, published, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # each file of this process may have 4 kB
        refused(f"cache folder {cache} cannot be used (File too large)", "SAMSLIB_CACHE", name="norman")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(cache.iterdir())
    move(monkeypatch, "norman", OFFLINE, gigabytes=1e9)
    refused("has no room for norman.h5ad: 1e+09 GB are needed and", "SAMSLIB_CACHE", name="norman")
    assert not list(cache.iterdir())


def test_the_choice_from_the_genome_wide_file_is_kept(cache, published, monkeypatch):
    known = DATASETS["replogle-raw"]
    chosen = datasets.load("replogle-raw")
    assert not (cache / known.kept).exists(), "another number of cells than published is not kept for good"
    monkeypatch.setitem(DATASETS, "replogle-raw", replace(known, cells=chosen.n_obs, genes=chosen.n_vars))
    datasets.load("replogle-raw")
    for file in known.files:
        (cache / file.name).unlink()
    again = datasets.load("replogle-raw")
    assert [p.name for p in cache.iterdir()] == [known.kept] and datasets.describe().loc["replogle-raw", "here"]
    np.testing.assert_array_equal(again.X.toarray(), chosen.X.toarray())
    assert list(again.obs["perturbation"]) == list(chosen.obs["perturbation"])
    assert {k: list(v) for k, v in again.uns["pathways"].items()} == {
        "EXOSOME": ["EXOSC1"],
        "SPLICEOSOME": ["SNRPD3"] * 1,
    }
    assert again.uns["source"] == chosen.uns["source"]
    assert datasets.sha256("replogle-raw") == sha256(cache / known.kept)


def test_lists_that_are_not_the_published_ones_are_not_kept(cache, published):
    (published / "replogle-lists.ipynb").write_text("{}")
    refused("is no notebook", "was not kept", "insitro/sams-vae", name="replogle-raw")
    assert [p.name for p in cache.iterdir()] == [DATASETS["replogle-raw"].files[0].name]


@needs_real
def test_both_studies_of_the_development_file_have_whole_counts(cache):
    cache.mkdir()
    (cache / FILE).symlink_to(REAL)
    adata, row = datasets.load("mcfaline-devel"), datasets.describe().loc["mcfaline-devel"]
    data = PerturbationData.from_anndata(adata, **row["arguments"])
    assert data.shape == (row["cells"], row["genes"]) and len(data.covariates) == 3
    assert (len(data.perturbations), len(data.conditions())) == (row["perturbations"], row["conditions"])
    smallest = np.minimum.reduceat(adata.X.data, adata.X.indptr[:-1])
    assert (smallest == 1).all()


@needs_tapseq
def test_tapseq_has_one_guide_a_cell_or_with_multiplets_several(cache):
    cache.mkdir()
    for name, path in TAPSEQ.items():
        (cache / name).symlink_to(path)
    calls = {"umis": 5, "none": 662, "one": 19_060, "several": 2255}
    for name in ("tapseq", "tapseq-multiplets"):
        adata, row = datasets.load(name), datasets.describe().loc[name]
        data = PerturbationData.from_anndata(adata, **row["arguments"])
        assert data.shape == (row["cells"], row["genes"]) and adata.uns["guide_calls"] == calls
        assert (len(data.perturbations), len(data.conditions())) == (row["perturbations"], row["conditions"])
    one = adata[adata.obs["n_guides"] == 1].obs
    assert (one["perturbation"] == "control").sum() == 7760 and one["guide_umis"].min() >= 5
    guides = one["guide"].astype(str).value_counts()
    assert (len(guides), guides.median(), guides.min()) == (86, 218.5, 14)
    targeting = one[one["perturbation"] != "control"].astype({"target": str, "guide": str})
    assert targeting.groupby("target")["guide"].nunique().tolist() == [4] * 14
    assert set(one["guide"][one["perturbation"] == "control"].str[17:-6]) == {"non-targeting"}
    assert set(adata.obs["batch"]) == {"TAP1", "TAP2"}
    means = adata.to_df().groupby(adata.obs["target"], observed=True).mean()
    assert all(means.loc[gene, gene] < 0.6 * means.loc["control", gene] for gene in ("CCNE2", "DSCC1", "RIPK2", "UBR5"))


@pytest.mark.skipif(not GLIOBLASTOMA.is_file(), reason=f"the file of the glioblastomas is not at {GLIOBLASTOMA}")
def test_glioblastoma_has_five_patients_with_and_without_the_drug(cache):
    cache.mkdir()
    (cache / GLIOBLASTOMA.name).symlink_to(GLIOBLASTOMA)
    adata, row = datasets.load("glioblastoma"), datasets.describe().loc["glioblastoma"]
    data = PerturbationData.from_anndata(adata, **row["arguments"])
    assert data.shape == (row["cells"], row["genes"]) and len(data.covariates) == 5
    assert (len(data.perturbations), len(data.conditions())) == (row["perturbations"], row["conditions"])
    assert (pd.crosstab(adata.obs["patient"], adata.obs["perturbation"]) == 500).all(axis=None)
    assert np.median(adata.X.toarray().sum(axis=1)) == 648 and adata.X.data.min() == 1
    assert adata.var_names.is_unique and {"MT2A", "SPP1"} <= set(adata.var_names)


def test_describe_lists_every_set_with_size_terms_and_address():
    table = datasets.describe()
    assert list(table.index) == list(DATASETS)
    assert table[["origin", "licence", "file"]].astype(bool).all(axis=None)
    assert table.loc[list(datasets.SOURCES), "address"].str.startswith("https://").all()
    assert table.loc["replogle-raw", "gigabytes"] == 66 and table.loc["replogle", "cells"] == 118_641
