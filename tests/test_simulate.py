"""Simulators: laws, shapes, truth and refusals.

Moments are checked as z-scores of independent draws: |z| < 5 has a two-sided error rate of 6e-7 for each of
fewer than a thousand comparisons, so a right simulator fails less than once in a thousand seeds (seeds are
fixed here).
"""

import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from samslib.data.container import PerturbationData
from samslib.datasets.simulate import (
    _orthogonal,
    dose_response,
    guide_screen,
    perturb_seq,
    sams_vae_simulation,
    svae_plus_simulation,
    true_effects,
)
from samslib.evaluate.observed import data_effects

SMALL = dict(perturbations=12, genes=40, cells=(30, 5, 5))
MAKERS = {
    "sams": lambda **o: sams_vae_simulation(**SMALL, **o),
    "svae": lambda **o: svae_plus_simulation(**SMALL, **o),
    "pairs": lambda **o: perturb_seq(singles=8, pairs=4, cells=20, controls=10, genes=30, **o),
    "guides": lambda **o: guide_screen(targets=8, cells=20, controls=20, genes=30, **o),
}


def score(values, mean, deviation):
    """How many standard errors the mean of independent values lies from what it should be."""
    values = np.asarray(values, dtype=float).ravel()
    return (values.mean() - mean) / (deviation / np.sqrt(values.size))


def dense(x):
    return x.toarray() if sp.issparse(x) else np.asarray(x)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_truth_seed_and_provenance(make):
    one, same, other = make(seed=3), make(seed=3), make(seed=4)
    np.testing.assert_array_equal(dense(one.X), dense(same.X))
    assert (dense(one.X) != dense(other.X)).any()
    truth, made = one.uns["truth"], one.uns["simulation"]
    real = not sp.issparse(one.X)
    control = "control" if (one.obs["perturbation"] == "control").any() else None
    data = PerturbationData.from_anndata(one, control=control, counts=not real)
    assert data.perturbations == tuple(truth["perturbations"])
    shift = data.dose.toarray() @ (truth["M"] * truth["E"])
    np.testing.assert_allclose(one.obsm["z"], one.obsm["z_basal"] + shift, atol=1e-4)
    assert made["seed"] == 3 and json.loads(made["parameters"])["genes"] == one.n_vars
    basal = one.obsm["z_basal"]
    assert abs(score(basal, 0, 1)) < 5 and abs(score(basal**2, 1, np.sqrt(2))) < 5


@pytest.mark.parametrize("kind", ["sams", "svae"])
def test_published_rows_cycle_and_parts_follow(kind):
    adata = MAKERS[kind]()
    assert adata.obs["perturbation"].tolist() == [f"P{i:02d}" for i in range(1, 13)] * 40
    assert adata.obs["split"].tolist() == ["train"] * 360 + ["val"] * 60 + ["test"] * 60


def test_published_defaults():
    import inspect

    defaults = {k: p.default for k, p in inspect.signature(sams_vae_simulation).parameters.items()}
    assert defaults == dict(
        perturbations=100, genes=100, latent=15, hidden_layers=4, width=50, mask_probability=2 / 15,
        magnitude=(5.0, 0.5),
        cells=(500, 100, 100), noise=0.2, exponential=False, init="orthogonal", sparsity=0.5, seed=0,
    )  # fmt: skip
    defaults = {k: p.default for k, p in inspect.signature(svae_plus_simulation).parameters.items()}
    assert defaults == dict(
        perturbations=100, genes=100, latent=15, width=40, magnitude=(5.0, 0.5), cells=(500, 100, 100),
        mask_probability=None, total=1e6, seed=0,
    )  # fmt: skip


def test_sams_simulation_has_the_stated_laws():
    adata = sams_vae_simulation(perturbations=200, cells=(20, 3, 2), seed=1)
    M, E = adata.uns["truth"]["M"], adata.uns["truth"]["E"]
    p = 2 / 15
    assert abs(score(M, p, np.sqrt(p * (1 - p)))) < 5
    assert abs(score(np.sign(E), 0, 1)) < 5
    assert abs(score(np.abs(E), 5, 0.5)) < 5 and abs(score((np.abs(E) - 5) ** 2, 0.25, np.sqrt(2) * 0.25)) < 5
    mean = adata.layers["mean"].astype(float)
    np.testing.assert_allclose(mean.std(0, ddof=1), 1, rtol=1e-5)
    residual = (adata.X - mean) / np.sqrt(0.25)  # noise is a fifth of the variance: 0.2 / 0.8 of the signal's
    assert abs(score(residual, 0, 1)) < 5 and abs(score(residual**2, 1, np.sqrt(2))) < 5
    np.testing.assert_allclose(residual.std(0), 1, atol=5 / np.sqrt(2 * len(residual)))


def test_sams_simulation_options():
    positive = MAKERS["sams"](exponential=True)
    assert (positive.layers["mean"] > 0).all()
    np.testing.assert_array_equal(MAKERS["sams"](noise=0).X, MAKERS["sams"](noise=0).layers["mean"])
    means = [MAKERS["sams"](init=init).layers["mean"] for init in ("orthogonal", "kaiming", "sparse")]
    assert all(np.isfinite(m).all() for m in means) and (means[0] != means[1]).any() and (means[1] != means[2]).any()
    linear = MAKERS["sams"](hidden_layers=0, noise=0)  # one layer: expression is linear in z
    _, error, rank, _ = np.linalg.lstsq(linear.obsm["z"], linear.X, rcond=None)
    assert rank == 15 and error.max() < 1e-6
    gone = MAKERS["sams"](init="sparse", sparsity=1.0, noise=0.5)  # no signal at all: constant genes, unit noise
    assert (gone.layers["mean"] == 0).all() and abs(score(gone.X**2, 1, np.sqrt(2))) < 5


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_orthogonal_weights(shape):
    w = _orthogonal(np.random.default_rng(0), *shape)
    assert w.shape == shape
    small = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(small, np.eye(min(shape)), atol=1e-12)


def test_svae_simulation_has_the_stated_laws():
    adata = svae_plus_simulation(perturbations=300, cells=(8, 1, 1), seed=2)
    M, E = adata.uns["truth"]["M"], adata.uns["truth"]["E"]
    axes = M.sum(1)
    assert set(axes) <= {1, 2, 3}
    # one, two or three draws with replacement of 15: chances of one, two and three distinct axes
    chances = np.array([1 + 1 / 15 + 1 / 225, 14 / 15 + 3 * 14 / 225, 14 * 13 / 225]) / 3
    for size, chance in zip((1, 2, 3), chances, strict=True):
        assert abs(score(axes == size, chance, np.sqrt(chance * (1 - chance)))) < 5
    assert abs(score(np.abs(E), 5, 0.5)) < 5 and abs(score(np.sign(E), 0, 1)) < 5
    totals = adata.X.sum(0)  # every gene has a million counts over all cells, with Poisson noise
    assert np.abs((np.asarray(totals).ravel() - 1e6) / 1e3).max() < 5
    assert svae_plus_simulation(**SMALL, mask_probability=0.0).uns["truth"]["M"].sum() == 0
    few = svae_plus_simulation(**SMALL, total=100.0)
    assert abs(few.X.sum() / few.n_vars - 100) < 5 * np.sqrt(100 / few.n_vars)


def test_perturb_seq_has_the_stated_laws():
    adata = perturb_seq(singles=150, pairs=10, cells=10, controls=400, seed=5)
    counts = adata.obs["perturbation"].value_counts()
    pairs = [name for name in counts.index if "+" in name]
    assert counts["control"] == 400 and len(counts) == 161 and len(pairs) == 10 and (counts.drop("control") == 10).all()
    assert all(name == "+".join(sorted(name.split("+"))) for name in pairs)
    M, E = adata.uns["truth"]["M"], adata.uns["truth"]["E"]
    p = 2 / 15
    assert abs(score(M, p, np.sqrt(p * (1 - p)))) < 5 and abs(score(E / 5, 0, 1)) < 5
    assert abs(score((E / 5) ** 2, 1, np.sqrt(2))) < 5
    order = adata.obs["perturbation"].to_numpy()
    assert (order[:-1] != order[1:]).mean() > 0.8, "rows come in random order"


def test_perturb_seq_counts_are_negative_binomial():
    """With no spread of states, genes or libraries the counts are NB(mean, theta) with known mean and
    variance."""
    flat = dict(slope=0.0, gene_spread=0.0, library=(400.0, 0.0), concentration=(2.0, 0.0))
    x = dense(perturb_seq(cells=100, controls=100, genes=50, **flat).X)
    mean, variance = 8.0, 8 + 64 / 2
    assert abs(score(x, mean, np.sqrt(variance))) < 5
    kurtosis = 3 + 6 / 2 + 1 / variance  # of the negative binomial with concentration 2
    assert abs(score((x - mean) ** 2, variance, variance * np.sqrt(kurtosis - 1))) < 5
    zero = (2 / (2 + mean)) ** 2
    assert abs(score(x == 0, zero, np.sqrt(zero * (1 - zero)))) < 5


def test_bundled_defaults_are_like_the_real_cells():
    """Median depth, spread of depth and share of zeros within a tenth of the real ones: 126, 0.70, 0.891."""
    x = perturb_seq().X
    depth = np.asarray(x.sum(1)).ravel()
    assert abs(np.median(depth) / 126 - 1) < 0.1
    assert abs(np.log(depth).std() / 0.70 - 1) < 0.1
    assert abs((1 - x.nnz / np.prod(x.shape)) / 0.891 - 1) < 0.1


def test_guides_share_their_gene_and_genes_their_pathway():
    adata = guide_screen(targets=40, guides=3, cells=4, controls=9, own_probability=0.0, seed=2)
    counts = adata.obs["perturbation"].value_counts()
    assert counts["control"] == 9 and len(counts) == 121 and (counts.drop("control") == 4).all()
    truth = adata.uns["truth"]
    M, E = (truth[name].reshape(40, 3, 15) for name in "ME")
    assert truth["perturbations"][:4].tolist() == ["P01_a", "P01_b", "P01_c", "P02_a"]
    assert (M == M[:, :1]).all() and (M.sum(-1) == 2).all()
    ratio = E / E[:, :1]  # one strength a guide, whatever the axis
    np.testing.assert_allclose(ratio, ratio[..., :1].repeat(15, -1), rtol=1e-4)
    assert ratio[..., 0].min() >= 0.39 and ratio[:, 1:, 0].std() > 0.1
    pathways = adata.uns["pathways"]
    axes = {p: {tuple(M[int(gene[1:]) - 1, 0]) for gene in genes} for p, genes in pathways.items()}
    assert len(pathways) == 4 and all(len(masks) == 1 for masks in axes.values())
    assert sum(np.array(*masks) for masks in axes.values()).max() == 1, "no axis belongs to two pathways"
    obs = adata.obs.astype(str)
    assert all(row.pathway == "none" or row.gene in pathways[row.pathway] for row in obs.itertuples())
    assert obs.loc[obs["gene"] == "non-targeting", "perturbation"].eq("control").sum() == 9


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_effects_of_a_pathway_are_common_as_far_as_asked(shared):
    law = dict(targets=60, guides=1, strength=(1, 1), cells=2, own_probability=0.0)
    screen = guide_screen(**law, shared=shared, seed=1)
    truth = screen.uns["truth"]
    shifts = truth["M"] * truth["E"]
    for genes in screen.uns["pathways"].values():
        E = shifts[[int(gene[1:]) - 1 for gene in genes]]
        E = E[:, E.any(0)]
        assert E.shape == (15, 2)
        if shared:
            np.testing.assert_allclose(E, E[:1].repeat(15, 0), rtol=1e-5)
        else:
            assert abs(score(E / 5, 0, 1)) < 5 and abs(score((E / 5) ** 2, 1, np.sqrt(2))) < 5


def test_a_drug_has_its_curve_at_every_dose():
    """Cells of each dose are shifted by M E times Hill's curve of their drug; its law is the stated one."""
    small = dict(levels=3, cells=2, controls=7, genes=20, lowest=0.01)
    adata, same = (dose_response(drugs=300, **small, seed=3) for _ in range(2))
    np.testing.assert_array_equal(dense(adata.X), dense(same.X))
    truth, order = adata.uns["truth"], adata.obs["perturbation"].to_numpy()
    assert abs(score(np.log(truth["half"] / 0.2) / 0.8, 0, 1)) < 5 and abs(score(truth["M"], 0.2, 0.4)) < 5
    assert abs(score(np.log(truth["hill"] / 1.5) / 0.4, 0, 1)) < 5 and abs(score(truth["E"] / 5, 0, 1)) < 5
    cells = adata.obs.groupby(["perturbation", "dose"], observed=True).size()
    assert cells["control"].to_dict() == {0.0: 7} and (cells.drop("control") == 2).all() and len(cells) == 901
    np.testing.assert_allclose(sorted(set(adata.obs["dose"])), [0, 0.01, 0.1, 1])
    data = PerturbationData.from_anndata(adata, dose="dose")
    shift = adata.obsm["z"] - adata.obsm["z_basal"]
    assert (shift[order == "control"] == 0).all() and (order[:-1] != order[1:]).mean() > 0.8
    for t, name in enumerate(truth["perturbations"]):
        rows, c, h = order == name, truth["half"][t], truth["hill"][t]
        d = data.dose[rows].toarray()[:, [t]]
        np.testing.assert_allclose(shift[rows], d**h / (c**h + d**h) * truth["M"][t] * truth["E"][t], atol=1e-4)


def test_true_effects_are_those_of_very_many_cells(tmp_path):
    """Of two drugs at two doses, 3,000 cells each: all 80 differences within five of the data's standard errors, and
    not those of another dose; a dose of 0 is a control, whose counts alone differ; the truth survives on disk."""
    adata = dose_response(drugs=2, levels=2, cells=3000, controls=3000, genes=20, mask_probability=0.5, seed=1)
    adata.write_h5ad(tmp_path / "screen.h5ad")
    again = anndata.read_h5ad(tmp_path / "screen.h5ad")
    observed = data_effects(PerturbationData.from_anndata(adata, dose="dose"))
    asked = [{"P01": 1.0}, {"P01": 0.05}, {"P02": 1.0}, {"P02": 0.05}, {"P01": 0.0}, {"P01": 0.2}]
    truth = true_effects(again, asked)
    np.testing.assert_array_equal(truth, true_effects(adata, asked))
    found = observed[["P01", "P01=0.05", "P02", "P02=0.05"]]
    error = np.hypot(found.layers["standard_error"], 0.03)
    assert (np.abs(truth[:4] - found.X) < 5 * error).all() and (np.abs(truth[[5]] - found.X[:2]) > 5 * error[:2]).any()
    assert np.abs(truth[4]).max() < 0.15 and (true_effects(adata, asked, seed=1) != truth).any()


@pytest.mark.parametrize(
    "screen, asked, words",
    [
        (lambda: perturb_seq(singles=2, pairs=0, cells=5, controls=5), {"P01": 1.0}, "not one of dose_response"),
        (lambda: dose_response(drugs=2, cells=5, controls=5), {"P03": 1.0}, "The drug is 'P03'; choose one of"),
        (lambda: dose_response(drugs=2, cells=5, controls=5), {"P01": -1.0}, "The dose of 'P01' is -1.0; it must be 0"),
        (lambda: dose_response(drugs=2, cells=5, controls=5), {"P01": np.nan}, "The dose of 'P01' is nan"),
    ],
)
def test_true_effects_of_what_is_not_there(screen, asked, words):
    with pytest.raises(ValueError, match=words):
        true_effects(screen(), [asked])


@pytest.mark.parametrize(
    "make, options, words",
    [
        (sams_vae_simulation, dict(perturbations=0), "perturbations is 0; it must be 1 or above"),
        (sams_vae_simulation, dict(genes=2.5), "genes is 2.5"),
        (sams_vae_simulation, dict(latent=True), "latent is True"),
        (sams_vae_simulation, dict(hidden_layers=-1), "hidden_layers is -1"),
        (
            sams_vae_simulation,
            dict(mask_probability=1.2),
            "mask_probability is 1.2; it must be between 0 and 1",
        ),
        (sams_vae_simulation, dict(noise=1.0), "noise is 1.0"),
        (
            sams_vae_simulation,
            dict(init="normal"),
            "init is 'normal'; choose one of",
        ),
        (sams_vae_simulation, dict(cells=(0, 0, 0)), "not all zero"),
        (sams_vae_simulation, dict(cells=(5, 5)), "three numbers"),
        (sams_vae_simulation, dict(magnitude=(5, -1)), "deviation is -1"),
        (
            svae_plus_simulation,
            dict(latent=50),
            "latent <= width <= genes is needed, but they are 50, 40 and 100",
        ),
        (svae_plus_simulation, dict(genes=30), "latent <= width <= genes"),
        (svae_plus_simulation, dict(total=np.inf), "total is inf"),
        (perturb_seq, dict(pairs=191), "pairs is 191, but 20 singles make 190"),
        (perturb_seq, dict(singles=1), "1 singles make 0"),
        (perturb_seq, dict(pairs=-1), "pairs is -1"),
        (perturb_seq, dict(controls=-1), "controls is -1"),
        (perturb_seq, dict(effect_scale=-1), "effect_scale is -1"),
        (perturb_seq, dict(library=(0, 1)), "library median is 0"),
        (perturb_seq, dict(concentration=(np.nan, 1)), "concentration median is nan"),
        (perturb_seq, dict(library=(1e-3, 0), cells=1, controls=1), "cells stay without counts"),
        (dose_response, dict(drugs=0), "drugs is 0"),
        (dose_response, dict(lowest=1.0), "lowest is 1.0; it must be strictly between 0 and 1"),
        (dose_response, dict(half=(0, 1)), "half median is 0"),
        (dose_response, dict(hill=(1.0, -1)), "hill deviation is -1"),
        (guide_screen, dict(guides=0), "guides is 0"),
        (guide_screen, dict(shared=1.5), "shared is 1.5; it must be between 0 and 1"),
        (guide_screen, dict(controls=-1), "controls is -1"),
        (guide_screen, dict(strength=(1.0, 0.4)), "give the smaller value first"),
        (guide_screen, dict(pathways=25), "pathways is 25, but targets is 24"),
        (guide_screen, dict(axes=4), "4 pathways of 4 axes need latent of 16 at least, but it is 15"),
        (guide_screen, dict(library=(0, 1)), "library median is 0"),
    ],
)
def test_pathological_arguments(make, options, words):
    with pytest.raises(ValueError) as caught:
        make(**options)
    assert words in str(caught.value) and "\n" not in str(caught.value)
