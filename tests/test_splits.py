"""Splits, against a direct reading of the published recipe, and the figures known for the real cells."""

import hashlib
import logging
import math
import re
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from samslib import datasets
from samslib.data import splits
from samslib.data.container import PerturbationData
from samslib.validation import DataError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "perturbench-devel.h5ad"


@pytest.fixture(scope="module")
def data():
    """Eight pairs in an order of spelling that is not canonical, six singles and controls, 15 to 29 cells
    each."""
    rng = np.random.default_rng(3)
    names = ["control", *"ABCDEF", "B+A", "C+A", "A+D", "F+E", "E+B", "C+D", "D+F", "B+F"]
    labels = rng.permutation(np.repeat(names, rng.integers(15, 30, len(names))))
    adata = ad.AnnData(
        np.ones((len(labels), 2), np.float32), obs=pd.DataFrame(index=[f"c{i}" for i in range(len(labels))])
    )
    adata.obs["perturbation"] = labels
    logging.getLogger("samslib").setLevel(logging.ERROR)
    yield PerturbationData.from_anndata(adata)
    logging.getLogger("samslib").setLevel(logging.NOTSET)


def published(raw, fraction, seed, test=0.25, by_cells=False):
    """The recipe with tables of cells, step by step, apart from the library's code: {cell position: part}."""
    guides = np.array([0 if r == "control" else r.count("+") + 1 for r in raw])
    pairs = [i for i, g in enumerate(guides) if g == 2]
    combos = sorted({raw[i] for i in pairs})
    np.random.default_rng(seed).shuffle(combos)
    train_combos = combos[: int(fraction * len(combos))]
    test_combos = combos[::-1][: math.ceil(test * len(combos))]
    first, last = train_test_split(pairs, test_size=0.2, random_state=seed)
    first, middle = train_test_split(first, test_size=0.2, random_state=seed)
    if by_cells:
        first = first[: int(fraction * len(first))]
    else:
        first, middle = ([i for i in part if raw[i] in train_combos] for part in (first, middle))
        last = [i for i in last if raw[i] in test_combos]
    rest, rest_val = train_test_split([i for i, g in enumerate(guides) if g < 2], test_size=0.2, random_state=seed)
    return (
        dict.fromkeys([*first, *rest], "train")
        | dict.fromkeys([*middle, *rest_val], "val")
        | dict.fromkeys(last, "test")
    )


def as_dict(part):
    return {i: str(p) for i, p in enumerate(part) if p}


@pytest.mark.parametrize("seed", [0, 1, 4])
@pytest.mark.parametrize("fraction", [0, 0.25, 0.5, 0.7, 1])
def test_norman_splits_are_the_published_recipe(data, fraction, seed):
    for test in (0.2, 0.25, 0.5):
        expected = published(data.raw_labels, fraction, seed, test)
        assert as_dict(splits.combinations(fraction, test, seed=seed)(data)) == expected
        assert as_dict(splits.combinations(fraction, test, seed=seed)(data.encode_unique())) == expected
    expected = published(data.raw_labels, fraction, seed, by_cells=True)
    assert as_dict(splits.combination_cells(fraction, seed=seed)(data)) == expected


def test_raising_the_fraction_only_adds_cells(data):
    for make in (splits.combinations, splits.combination_cells):
        trained = [set(np.flatnonzero(make(f)(data) == "train")) for f in (0, 0.25, 0.5, 0.75, 1)]
        assert all(a < b for a, b in zip(trained[:-1], trained[1:], strict=True))
    at_one = [make(1)(data) for make in (splits.combinations, splits.combination_cells)]
    for part in ("train", "val"):
        np.testing.assert_array_equal(at_one[0] == part, at_one[1] == part)


def test_held_out_combinations_are_not_seen_in_training(data):
    train, val, test = data.split(splits.combinations(0.75))
    assert set(test.labels).isdisjoint({*train.labels, *val.labels}) and len(set(test.labels)) == 2
    assert (test.n_perturbations == 2).all() and {0, 1, 2} == set(train.n_perturbations)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("options, share", [({}, [0.64, 0.16, 0.2]), ({"train": 0.5}, [0.25, 0.25, 0.5])])
def test_random_split_cuts_twice_at_the_same_share(data, seed, options, share):
    part = splits.random(**options, seed=seed)(data)
    size = options.get("train", 0.8)
    rest, test = train_test_split(range(len(data)), train_size=size, random_state=seed)
    train, val = train_test_split(rest, train_size=size, random_state=seed)
    for name, positions in dict(train=train, val=val, test=test).items():
        assert sorted(positions) == np.flatnonzero(part == name).tolist()
    found = [len(p) / len(data) for p in data.split(splits.random(**options, seed=seed))]
    np.testing.assert_allclose(found, share, atol=0.01)


def test_fingerprint_of_the_random_streams():
    """Guards against a change of scikit-learn's or NumPy's streams: the parts of a thousand cells at seed
    0."""
    adata = ad.AnnData(np.ones((1000, 1)), obs=pd.DataFrame(index=[str(i) for i in range(1000)]))
    adata.obs["perturbation"] = ["control", "A", "B", "A+B", "A+C"] * 200
    data = PerturbationData.from_anndata(adata)
    parts = [
        splits.random()(data),
        splits.combinations(0.5, test=0.5)(data),
        splits.combination_cells(0.5)(data),
    ]
    found = [hashlib.sha256("".join(p[:1] or "-" for p in part).encode()).hexdigest()[:12] for part in parts]
    assert found == FINGERPRINT


FINGERPRINT = ["45a312c89ac1", "fc8f6ca8f58e", "a77e21744c35"]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_fractions_outside_their_range(fraction):
    with pytest.raises(ValueError, match="fraction is .*; it must be between 0 and 1"):
        splits.combinations(fraction)
    with pytest.raises(ValueError, match="fraction is"):
        splits.combination_cells(fraction)
    with pytest.raises(ValueError, match="test is"):
        splits.combinations(0.5, test=fraction)
    with pytest.raises(ValueError, match="train is"):
        splits.random(train=fraction)


def test_splits_that_leave_a_part_empty(data):
    for train in (0, 1):
        with pytest.raises(ValueError, match="train is .; it must be strictly between 0 and 1"):
            splits.random(train=train)
    with pytest.raises(DataError, match="The test split has 0 cells; at least 2"):
        splits.combinations(0.5, test=0)(data)
    with pytest.raises(DataError, match=re.escape("The val split has 1 cell")):
        splits.random()(data[:5])
    with pytest.raises(DataError, match="cannot be split in two"):
        splits.random()(data[:1])
    singles = data[data.n_perturbations < 2]
    for make in (splits.combinations, splits.combination_cells):
        with pytest.raises(DataError, match=re.escape("No cell has two perturbations")):
            make(0.5)(singles)
        with pytest.raises(DataError, match="0 cell.s. cannot be split in two"):
            make(0.5)(data[data.n_perturbations == 2])


def test_combinations_listed_by_the_names_they_were_published_under(data):
    """Published names that sort otherwise than ours, one pair under two of them."""
    identity = np.array([str(raw).replace("+", "_")[::-1] for raw in data.raw_labels], dtype=object)
    twice = np.flatnonzero(data.raw_labels == "B+A")[::2]
    identity[twice] = "A_B_2"
    split = splits.combinations(0.5, names=identity, seed=3)(data)
    pairs = sorted(set(identity[data.n_perturbations == 2]))
    np.random.default_rng(3).shuffle(pairs)
    assert len(pairs) == len(set(data.raw_labels[data.n_perturbations == 2])) + 1
    assert set(identity[(split == "test")]) == set(pairs[-3:])
    assert set(identity[(data.n_perturbations == 2) & np.isin(split, ["train", "val"])]) == set(pairs[:4])
    assert not np.array_equal(split, splits.combinations(0.5, seed=3)(data))
    named = pd.Series(identity, index=data.cells).sample(frac=1, random_state=0)
    np.testing.assert_array_equal(splits.combinations(0.5, names=named, seed=3)(data), split)
    with pytest.raises(DataError, match="lacks 'c0'"):
        splits.combinations(0.5, names=named.drop("c0"))(data)
    with pytest.raises(DataError, match="There are 3 names for .* cells; give one a cell"):
        splits.combinations(0.5, names=["a", "b", "c"])(data)


@pytest.mark.skipif(not REAL.is_file(), reason=f"the file of the real cells is not at {REAL}")
def test_real_cells_fall_as_published(tmp_path, monkeypatch):
    """Norman cells of PerturBench's development file, split for unseen combinations at fraction 0."""
    shutil.copy(REAL, tmp_path)
    monkeypatch.setenv("SAMSLIB_CACHE", str(tmp_path))
    data = PerturbationData.from_anndata(datasets.load("norman-devel"))
    train, val, test = data.split(splits.combinations(fraction=0, test=0.2))
    assert (len(train), len(val), len(test)) == (1516, 379, 69)
    assert train.genes_seen(3).sum() == 136
    assert as_dict(splits.combinations(0, test=0.2)(data)) == published(data.raw_labels, 0, 0, 0.2)
