from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ignored, make_data, make_model
from scipy.stats import entropy, false_discovery_control, fisher_exact, pearsonr, spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import train_test_split

import samslib
from samslib.evaluate import annotation, recovery
from samslib.evaluate.annotation import (
    axis_enrichment,
    cluster_agreement,
    effect_clusters,
    gene_of,
    guide_agreement,
    pathway_prediction,
)
from samslib.evaluate.recovery import (
    dci,
    effect_recovery,
    latent_recovery,
    linear_r2,
    mask_recovery,
    mean_correlation,
    shared_latents,
)
from samslib.trace import Trace


def test_recovery_is_blind_to_the_order_of_axes():
    rng = np.random.default_rng(0)
    truth = rng.random((20, 5)) < 0.3
    shuffled = np.hstack([truth[:, [3, 1, 4, 0, 2]], np.zeros((20, 2))])
    assert mask_recovery(truth, shuffled).loc[0].to_dict() == {"precision": 1, "recall": 1, "f1": 1}
    effects = truth * rng.normal(size=(20, 5))
    assert effect_recovery(effects, -2 * effects[:, ::-1]) == pytest.approx(1)


def test_recovery_counts():
    truth, found = np.array([[1, 0], [1, 0], [0, 1]]), np.array([[0.9, 0.2], [0.1, 0.9], [0.2, 0.5]])
    scores = mask_recovery(truth, found).loc[0].to_dict()
    # one half is off: one hit of two found and three true, however axes are matched
    assert scores == {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5}
    assert mask_recovery(truth, np.zeros((3, 2)))["f1"].item() == 0
    assert effect_recovery(truth, np.zeros((3, 2))) == 0


def test_shared_latents_are_labelled(model):
    t = Trace(1)
    model.infer_shared(t)
    if not {"M", "E", "pi"} & set(t.sites):
        with pytest.raises(ValueError, match=f"{type(model).__name__} shares no latents.*average_effects"):
            shared_latents(model)
        return
    table, names = shared_latents(model, particles=50), list(model.summary.perturbations)
    assert list(table.obs_names) == names and table.shape[1] == t["E"].shape[-1]
    assert names == (["A", "B", "C"] if model.takes_combinations else ["A", "A+B", "B", "C"])
    assert ("M" in table.layers) == bool({"M", "pi"} & set(t.sites)) and "E" in table.layers
    if model.options.get("mask_posterior") == "beta":  # uniform at first; six standard errors of 50 draws
        np.testing.assert_allclose(table.layers["M"], 0.5, atol=6 * (1 / 12 / 50) ** 0.5)
    elif "mask_initial_logit" in model.options:
        logit = model.options["mask_initial_logit"]
        np.testing.assert_allclose(table.layers["M"], 1 / (1 + np.exp(-logit)), rtol=1e-5)
    if isinstance(model, samslib.SVAEPlus):  # E[M * E] with E a parameter
        np.testing.assert_allclose(table.layers["E"], model.embedding.detach().numpy(), rtol=1e-6)
        error = 6 * np.abs(table.layers["E"]) * (0.25 / 50) ** 0.5 + 1e-6
        assert (np.abs(table.X - table.layers["M"] * table.layers["E"]) < error).all()


# --- beside a known truth -----------------------------------------------------------------------------------


def test_effects_given_the_mask_are_means_over_draws_where_it_is_on():
    data = make_data()
    model = make_model("sams_vae mean_field", data.summary())
    with torch.no_grad():
        model.mask_logits[0, 0] = -30
        model.embedding.loc.normal_()
    table = shared_latents(model, particles=4000)
    assert np.isnan(table.layers["E_given_M"][0, 0]) and table.uns["samslib"]["particles"] == 4000
    rest = np.s_[1:]  # E is independent of M here: six standard errors of some 2000 draws with sd about 1
    np.testing.assert_allclose(table.layers["E_given_M"][rest], table.layers["E"][rest], atol=6 * 1.1 / 2000**0.5)


def test_correlation_is_blind_to_order_sign_and_scale_and_spearman_to_monotone_changes():
    z = np.random.default_rng(0).normal(size=(300, 4))
    found = np.hstack([np.random.default_rng(1).normal(size=(300, 2)), -3 * z[:, ::-1] + 1])
    assert mean_correlation(z, found) == pytest.approx(1)
    assert mean_correlation(z, np.exp(2 * z)) < 0.9 and mean_correlation(z, np.exp(2 * z), "spearman") == pytest.approx(
        1
    )
    assert mean_correlation(z, z[:, :2]) == pytest.approx(0.5)  # two true axes have no partner
    pair = np.c_[z[:, 0], z[:, 0] + z[:, 1]]
    assert mean_correlation(z[:, :1], pair[:, 1:]) == pytest.approx(abs(pearsonr(z[:, 0], pair[:, 1])[0]))
    assert mean_correlation(z[:, :1], pair[:, 1:], "spearman") == pytest.approx(abs(spearmanr(z[:, 0], pair[:, 1])[0]))


def test_linear_r2_is_blind_to_rotations_and_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    z, noise = rng.normal(size=(400, 3)), rng.normal(size=(400, 3))
    turned = z @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert linear_r2(z, turned) == pytest.approx(1) and mean_correlation(z, turned) < 0.95
    fitted = LinearRegression().fit(noise + z, z).predict(noise + z)
    assert linear_r2(z, noise + z) == pytest.approx(r2_score(z, fitted))


def test_dci_tells_copies_mixtures_and_noise_apart():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 3))
    (copy,), (turned,), (noise,) = (
        dci(z, found, trees=15).to_dict("records")
        for found in (z[:, [2, 0, 1]], z @ np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=(500, 3)))
    )
    assert min(copy.values()) > 0.95
    assert turned["disentanglement"] < 0.8 and turned["completeness"] < 0.8 and turned["informativeness"] > 0.6
    assert noise["disentanglement"] < 0.1 and noise["completeness"] < 0.1 and noise["informativeness"] < 0.1
    # two codes for each factor: each tells of one factor only, but no factor has one code only
    (twice,) = dci(z, np.hstack([z, z]) + 0.01 * rng.normal(size=(500, 6)), trees=15).to_dict("records")
    assert twice["disentanglement"] > 0.9 and 0.4 < twice["completeness"] < 0.9


def test_informativeness_is_that_of_scikit_learns_forests_with_leaves_of_five_rows():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(80, 2))
    found = z + rng.normal(size=(80, 2))
    x, x_test, y, y_test = train_test_split(found, z, random_state=3)
    forests = [RandomForestRegressor(4, min_samples_leaf=5, random_state=3).fit(x, column) for column in y.T]
    expected = np.mean([forest.score(x_test, column) for forest, column in zip(forests, y_test.T, strict=True)])
    assert dci(z, found, trees=4, seed=3)["informativeness"].item() == pytest.approx(expected)


def test_axes_weigh_as_much_as_they_are_used():
    importance = np.array([[3.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.0]])
    disentanglement, completeness = recovery._purity(importance)
    assert disentanglement == pytest.approx((3 * 1 + 3 * 1 + 2 * 0) / 8)
    assert completeness == pytest.approx(1 - entropy([3, 0, 1, 0], base=4))
    assert recovery._purity(np.zeros((3, 2))) == pytest.approx((0, 0))


def test_recovery_is_one_row_of_all_scores():
    z = np.random.default_rng(0).normal(size=(100, 2))
    table = latent_recovery(z, z)
    assert list(table) == [
        "mcc", "mcc_spearman", "linear_r2", "disentanglement", "completeness", "informativeness",
    ] and len(table) == 1  # fmt: skip
    assert table.loc[0, ["mcc", "linear_r2"]].tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("score", [mean_correlation, linear_r2, dci])
def test_unlike_latents_are_refused(score):
    z = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(ValueError, match="give tables with the same rows"):
        score(z, z[:5])
    with pytest.raises(ValueError, match="missing values"):
        score(z, np.where(z > 0, np.nan, z))


def test_axes_that_say_nothing_are_refused():
    z = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(ValueError, match="No true axis varies"):
        linear_r2(0 * z, z)
    with pytest.raises(ValueError, match="DCI of 2 true and 1 inferred axes"):
        dci(z, z[:, :1])
    with pytest.raises(ValueError, match="method is 'kendall'"):
        mean_correlation(z, z, "kendall")


# --- beside biology -----------------------------------------------------------------------------------------


def screen(signal: float, kinds: int = 3, genes: int = 10, guides: str = "ab") -> tuple[anndata.AnnData, dict]:
    """Guides of each of `genes` genes of each pathway on six axes, where pathways differ by `signal`; the labels."""
    rng = np.random.default_rng(0)
    centres = signal * np.eye(kinds, 6)
    rows, names, labels = [], [], {}
    for k in range(kinds):
        for g in range(genes):
            gene = rng.normal(size=6)
            for guide in guides:
                names.append(f"G{k}{g}_{guide}")
                labels[names[-1]] = f"pathway {k}"
                rows.append(centres[k] + gene + 0.3 * rng.normal(size=6))
    obs, var = pd.DataFrame(index=names), pd.DataFrame(index=[f"axis_{i}" for i in range(6)])
    return anndata.AnnData(np.array(rows), obs=obs, var=var), labels


def test_planted_clusters_are_found_and_noise_is_not():
    """Under noise, a p-value of 199 permutations below 0.01 has a chance of 1 in 100 for a seed."""
    table, labels = screen(8)
    clustered = effect_clusters(table, resolution=0.5)
    assert "cluster" not in table.obs and clustered.shape == table.shape
    found = cluster_agreement(clustered.obs["cluster"], labels, permutations=199).loc[0]
    assert found["adjusted_rand"] > 0.95 and found["p_value"] == 1 / 200 and found["perturbations"] == 60
    shuffled = dict(zip(labels, np.random.default_rng(0).permutation(list(labels.values())), strict=True))
    nothing = cluster_agreement(clustered.obs["cluster"], shuffled, permutations=199).loc[0]
    assert abs(nothing["adjusted_rand"]) < 0.2 and nothing["p_value"] > 0.01
    assert effect_clusters(table).obs["cluster"].equals(effect_clusters(table).obs["cluster"])


def test_few_perturbations_have_as_many_neighbours_as_there_are():
    table, _ = screen(8)
    few = effect_clusters(table[[0, 1, 20, 21, 40]].copy())
    assert few.obs["cluster"].notna().all() and few.uns["neighbors"]["params"]["n_neighbors"] == 4


def test_ties_count_as_reaching_the_score():
    assert annotation._p_value(0.5, [0.5, 0.5 - 1e-12, 0.6, 0.2]) == 4 / 5


def test_guides_of_a_gene_are_permuted_together():
    """Four guides of a gene fall in one cluster, whatever its pathway. With 19 permutations over genes the p-value is
    0.05 with a chance of 1 in 20 at most: 10 or more of 60 screens have a chance below 1 in 500. Permuted over
    guides, which are not independent, it is so in most screens."""
    rng = np.random.default_rng(0)
    genes, alarms, naive = [f"G{i}" for i in range(20)], 0, 0
    names = [f"{gene}_{guide}" for gene in genes for guide in "abcd"]
    for seed in range(60):
        cluster, pathway = (dict(zip(genes, rng.integers(4, size=20).astype(str), strict=True)) for _ in range(2))
        both = [pd.Series([of[gene_of(name)] for name in names], names) for of in (cluster, pathway)]
        found = cluster_agreement(*both, permutations=19, seed=seed, groups=gene_of).loc[0]
        alarms += found["p_value"] <= 0.05
        naive += cluster_agreement(*both, permutations=19, seed=seed).loc[0, "p_value"] <= 0.05
        assert found["groups"] == 20 and found["perturbations"] == 80
    assert alarms < 10 and naive > 15
    series = pd.Series([gene_of(name) for name in names], names)
    again = cluster_agreement(*both, permutations=19, seed=59, groups=series).loc[0]
    assert again.equals(found)


def test_pathways_that_genes_share_are_found_though_genes_are_permuted():
    table, labels = screen(8)
    found = cluster_agreement(effect_clusters(table).obs["cluster"], labels, permutations=199, groups=gene_of).loc[0]
    assert found["p_value"] == 1 / 200 and found["groups"] == 30


def test_planted_pathways_are_predicted():
    table, labels = screen(4)
    scores = pathway_prediction(table, labels, gene_of, trees=20, permutations=5, resamples=100)
    assert list(scores["classifier"].unique()) == ["logistic regression", "random forest"]
    observed, permuted = (scores[scores["labels"] == kind] for kind in ("observed", "permuted"))
    assert (observed["balanced_accuracy"] > 0.85).all() and (observed["p_value"] == 1 / 6).all()
    assert observed["balanced_accuracy"].between(observed["low"], observed["high"]).all()
    assert (permuted["balanced_accuracy"] < 0.55).all() and (scores["chance"] == 1 / 3).all()
    assert (scores["genes"] == 30).all() and (scores["perturbations"] == 60).all()
    linear = pathway_prediction(table, labels, gene_of, trees=0, permutations=0, resamples=100)
    assert linear["balanced_accuracy"].tolist() == observed["balanced_accuracy"].tolist()[:1]


def test_the_permuted_row_is_what_permuted_labels_score():
    """Three permutations of the labels over genes, each scored as if it had been observed."""
    table, labels = screen(4)
    genes = list(dict.fromkeys(gene_of(name) for name in table.obs_names))
    codes, rng, scores = np.arange(30) // 10, np.random.default_rng(5), []
    for _ in range(3):
        moved = dict(zip(genes, rng.permutation(codes).astype(str), strict=True))
        wrong = {name: moved[gene_of(name)] for name in table.obs_names}
        row = pathway_prediction(table, wrong, gene_of, trees=0, permutations=0, resamples=2, seed=5)
        scores.append(row["balanced_accuracy"].item())
    found = pathway_prediction(table, labels, gene_of, trees=0, permutations=3, resamples=2, seed=5).iloc[1]
    assert found["labels"] == "permuted" and found["balanced_accuracy"] == pytest.approx(np.mean(scores))
    assert found[["low", "high"]].tolist() == pytest.approx(np.quantile(scores, [0.025, 0.975]).tolist())


def test_rare_classes_and_small_scales_weigh_as_much_as_others():
    """Thirty genes against six on one axis where they differ by 1.5 standard deviations: without weights hardly any of
    the six would be told."""
    rng = np.random.default_rng(0)
    rare = np.arange(36) < 6
    names = [f"G{i}_a" for i in range(36)]
    table = anndata.AnnData(np.c_[rng.normal(size=36) + 1.5 * rare, rng.normal(size=36)], pd.DataFrame(index=names))
    labels = dict(zip(names, rare.astype(str), strict=True))
    fast = {"trees": 0, "permutations": 0, "resamples": 2, "folds": 3}
    ask = lambda t, **o: pathway_prediction(t, labels, gene_of, **fast | o).iloc[0]  # noqa: E731
    found = ask(table)
    assert found["balanced_accuracy"] > 0.7
    small = table.copy()
    small.X *= [1e-4, 1]
    assert ask(small)["balanced_accuracy"] == found["balanced_accuracy"] != ask(table, folds=6)["balanced_accuracy"]


def test_guides_of_a_gene_never_straddle_the_folds():
    """Genes differ much and pathways not at all: with guides of a gene on both sides, prediction would be near
    perfect. By chance it is 1/3; 0.6 is three standard deviations of a mean of 30 genes away."""
    table, labels = screen(0, guides="abcd")
    kept = pathway_prediction(table, labels, gene_of, trees=20, permutations=0, resamples=20)
    leaking = pathway_prediction(table, labels, gene_of=lambda name: name, trees=20, permutations=0, resamples=20)
    forest = lambda t: t.set_index("classifier").loc["random forest", "balanced_accuracy"]  # noqa: E731
    assert forest(kept) < 0.6 and forest(leaking) > forest(kept) + 0.25


def test_the_interval_of_an_accuracy_is_over_genes():
    """Two pathways of 50 genes, three guides each, on one axis whose sign gives the pathway in four genes of five: the
    accuracy is 0.8 with a standard error of sqrt(0.8 * 0.2 / 100) = 0.04. Over guides it would be 0.023."""
    names = [f"G{g}_{guide}" for g in range(100) for guide in "abc"]
    pathway = np.arange(100) % 2
    sign = np.where(np.arange(100) // 2 % 5, 1, -1) * (2 * pathway - 1)
    table = anndata.AnnData(sign.repeat(3)[:, None] * 1.0, obs=pd.DataFrame(index=names))
    labels = dict(zip(names, pathway.repeat(3).astype(str), strict=True))
    row = pathway_prediction(table, labels, gene_of, trees=0, permutations=0).iloc[0]
    assert row["balanced_accuracy"] == pytest.approx(0.8) and row["chance"] == 1 / 2
    interval = [0.8 - 1.96 * 0.04, 0.8 + 1.96 * 0.04]
    np.testing.assert_allclose(row[["low", "high"]].astype(float), interval, atol=0.008)


def test_balanced_accuracy_is_scikit_learns():
    rng = np.random.default_rng(0)
    y, predicted, weight = rng.integers(4, size=50), rng.integers(4, size=50), rng.random(50)
    assert annotation._balanced(y, predicted) == pytest.approx(balanced_accuracy_score(y, predicted))
    weighted = balanced_accuracy_score(y, predicted, sample_weight=weight)
    assert annotation._balanced(y, predicted, weight) == pytest.approx(weighted)


def test_enrichment_is_fishers_test_and_finds_the_planted_axis():
    table, labels = screen(0)
    rng = np.random.default_rng(0)
    mask = (rng.random(table.shape) < 0.2) * 0.9
    mask[:18, 2] = 0.9  # 18 of the 20 guides of the first pathway
    table.layers["M"] = mask
    found = axis_enrichment(table, labels)
    first = found.iloc[0]
    assert (first["axis"], first["annotation"]) == ("axis_2", "pathway 0") and first["fdr"] < 1e-3
    on = int((mask[:, 2] > 0.5).sum())
    square = [[first["both"], on - first["both"]], [20 - first["both"], 40 - on + first["both"]]]
    assert first["p_value"] == pytest.approx(fisher_exact(square, "greater").pvalue)
    assert first["expected"] == pytest.approx(on * 20 / 60) and len(found) == 18
    assert first["fold"] == pytest.approx(first["both"] / first["expected"]) and first["fold"] > 1
    np.testing.assert_allclose(found["fdr"], false_discovery_control(found["p_value"]))
    by_gene = axis_enrichment(table, labels, gene_of=gene_of)
    assert by_gene.iloc[0]["axis"] == "axis_2" and (by_gene["total"] == 30).all()
    assert by_gene.iloc[0]["p_value"] > first["p_value"]  # half as many independent draws
    series = pd.Series({name: gene_of(name) for name in table.obs_names})
    pd.testing.assert_frame_equal(axis_enrichment(table, labels, gene_of=series), by_gene)


def test_an_effect_of_either_sign_is_on_an_axis_and_one_at_the_threshold_is_not():
    """Guides of G0 pull in opposite directions: their mean absolute value is on. Those of G1 lie at the threshold."""
    names = ["G0_a", "G0_b", "G1_a", "G1_b", "G2_a", "G2_b"]
    table = anndata.AnnData(np.array([[1.0], [-1.0], [0.5], [0.5], [0.0], [-0.8]]), pd.DataFrame(index=names))
    labels = dict(zip(names, "xxyyyy", strict=True))
    each, genes = (axis_enrichment(table, labels, gene_of=of, layer=None).iloc[0] for of in (None, gene_of))
    assert (each["annotation"], each["on"], each["both"]) == ("x", 3, 2)
    assert (genes["annotation"], genes["on"], genes["both"]) == ("x", 1, 1)


def test_enrichment_finds_nothing_in_permuted_labels():
    """Over 60 draws of random masks, each with 18 tests, Benjamini and Hochberg's rule at 5% rejects something in at
    most 5% of draws: 9 or more of 60 have a chance below 1 in 300 (the discrete test is stricter still)."""
    table, labels = screen(0)
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(60):
        table.layers["M"] = (rng.random(table.shape) < 0.3).astype(float)
        alarms += axis_enrichment(table, labels)["fdr"].min() < 0.05
    assert alarms < 9


def test_guides_of_one_gene_agree_where_they_do():
    """Without agreement, the p-value of 99 permutations is at the least 1/100 with a chance of 1 in 100 for a seed."""
    table, _ = screen(0)
    found = guide_agreement(table, gene_of, permutations=99).loc[0]
    assert found["within"] > 0.8 > abs(found["between"]) + 0.6 and found["p_value"] == 1 / 100
    assert found["difference"] == pytest.approx(found["within"] - found["between"])
    assert found["pairs_within"] == 30 and found["pairs_between"] == 60 * 59 / 2 - 30 and found["genes"] == 30
    shuffled = dict(
        zip(table.obs_names, np.random.default_rng(0).permutation([*range(30)] * 2).astype(str), strict=True)
    )
    nothing = guide_agreement(table, gene_of=shuffled, permutations=99).loc[0]
    assert abs(nothing["difference"]) < 0.4 and nothing["p_value"] > 0.01


def test_no_argument_is_ignored():
    data = make_data()
    model = make_model("sams_vae mean_field", data.summary())
    assert not ignored(shared_latents, {"model": model}, particles=3, seed=1)
    z = np.random.default_rng(0).normal(size=(40, 2))
    both = {"truth": z, "inferred": np.exp(z + z[:, ::-1] ** 2)}
    assert not ignored(mean_correlation, both, method="spearman")
    assert not ignored(dci, both, trees=3, seed=1) and not ignored(latent_recovery, both, seed=1)
    table, labels = screen(1)
    table.layers["other"] = np.roll(table.X, 7, axis=0)
    assert not ignored(effect_clusters, {"table": table, "seed": 0}, layer="other", neighbors=3, resolution=3)
    base = {"clusters": effect_clusters(table).obs["cluster"], "annotations": labels, "permutations": 30}
    assert not ignored(cluster_agreement, base, permutations=40, seed=1, groups=gene_of)
    base = {"table": table, "annotations": labels, "permutations": 1, "trees": 2, "resamples": 5}
    base["gene_of"] = gene_of
    options = {"folds": 3, "permutations": 2, "trees": 3, "resamples": 6, "seed": 1}
    assert not ignored(pathway_prediction, base, gene_of=lambda name: name, layer="other", **options)
    assert not ignored(
        axis_enrichment,
        {"table": table, "annotations": labels, "layer": None},
        gene_of=gene_of,
        layer="other",
        threshold=1,
    )
    moved = dict(zip(table.obs_names, np.random.default_rng(0).permutation([*range(30)] * 2).astype(str), strict=True))
    base = {"table": table, "gene_of": moved, "permutations": 30}
    assert not ignored(guide_agreement, base, gene_of=gene_of, layer="other", permutations=40, seed=1)


CHECKS = {
    "prediction": lambda table, labels, **o: pathway_prediction(table, labels, **{"gene_of": gene_of} | o),
    "enrichment": lambda table, labels, **o: axis_enrichment(table, labels, layer=None, **o),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_bad_annotations_are_named(check):
    table, labels = screen(1)
    bad = [
        (labels | {"G00_c": "pathway 0"}, "name 'G00_c', which the table does not hold"),
        ({}, "No perturbation of the table is annotated"),
        (dict.fromkeys(labels), "No perturbation of the table is annotated"),
        (dict.fromkeys(labels, "x"), "All 60 annotated perturbations are labelled 'x'"),
        (pd.concat([pd.Series(labels)] * 2), "'G00_a' is annotated twice"),
    ]
    for wrong, message in bad:
        with pytest.raises(ValueError, match=message):
            check(table, wrong)
    with pytest.raises(ValueError, match="Guides of 'G00' have several labels"):
        check(table, labels | {"G00_a": "pathway 1"}, gene_of=gene_of)
    with pytest.raises(ValueError, match=r"59 perturbations have no gene \(G00_b"):
        check(table, labels, gene_of={"G00_a": "G00"})
    table.X[3] = np.nan
    with pytest.raises(ValueError, match=r"1 perturbations have missing values \(G01_b\)"):
        check(table, labels)


def test_what_cannot_be_compared_is_named():
    table, labels = screen(1)
    bad = [
        (lambda: pathway_prediction(table, dict(list(labels.items())[:46]), gene_of), "'pathway 2' has 3 genes, but 5"),
        (lambda: pathway_prediction(table, labels, gene_of, folds=1), "folds is 1"),
        (lambda: axis_enrichment(table, labels), r"no layer 'M'; choose one of \[\]"),
        (lambda: axis_enrichment(table, labels, layer=None, threshold=99), "above the threshold of 99"),
        (lambda: effect_clusters(table[:2]), "2 perturbations; clusters need three"),
        (lambda: cluster_agreement(pd.Series({"a": "0", "b": "1"}), {"c": "x"}), "name 'c'"),
        (lambda: cluster_agreement(labels, labels, groups={"G00_a": "G00"}), r"59 perturbations have no group \(G00_b"),
        (lambda: cluster_agreement(labels, labels, groups=lambda name: name[:1]), "Guides of 'G' have several labels"),
        (lambda: guide_agreement(table, gene_of=lambda name: name), "No gene has two guides"),
        (lambda: guide_agreement(table, gene_of=lambda name: "one"), "All guides in the table are of one gene"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
