"""What a trained model has learned about perturbations: masks and effects beside a known truth, and beside biology.

Labels of perturbations are a Series or dict name -> label. One that is absent or missing (None, NaN) says that the
perturbation has no label; one of a perturbation that the table does not hold is an error.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.stats import false_discovery_control, hypergeom
from sklearn import ensemble, linear_model, metrics, model_selection, pipeline, preprocessing

from samslib.data.messages import did_you_mean
from samslib.evaluate.tables import Groups, Labels, groups_of
from samslib.validation import require

TAILS = (0.025, 0.975)


def gene_of(name: str) -> str:
    """The target gene of a guide named as in Replogle et al. (2022): the text before the first underscore.

    Parameters
    ----------
    name
        Name of the guide.

    Returns
    -------
    str
        Name of the gene; the whole name if it holds no underscore.
    """
    return name.split("_")[0]


def effect_clusters(
    table: AnnData, neighbors: int = 10, resolution: float = 1.0, *, layer: str | None = None, seed: int = 0
) -> AnnData:
    """Clusters of perturbations with similar effects or masks.

    scanpy's neighbours of the rows, then its Leiden communities, with igraph. The weights of the neighbours are
    Gaussian: for tables as small as this, it is as good as UMAP's weights and needs none of the 20 seconds in which
    these are compiled.

    Parameters
    ----------
    table
        A row a perturbation: latent or average effects, or masks.
    neighbors
        Number of neighbours of each perturbation; at most all others.
    resolution
        Resolution of the Leiden communities; more gives more clusters.
    layer
        Layer whose rows are clustered; None for X.
    seed
        Seed of the neighbours and the communities.

    Returns
    -------
    AnnData
        A copy of the table with the clusters in obs["cluster"].

    Raises
    ------
    ValueError
        For missing values, an unknown layer or fewer than three perturbations.

    References
    ----------
    Traag et al. (2019), From Louvain to Leiden: guaranteeing well-connected communities.
    """
    import scanpy as sc

    values = _values(table, layer)
    require(len(values) > 2, f"The table has {len(values)} perturbations; clusters need three at least.")
    out = table.copy()
    out.obsm["X_clustered"] = values.to_numpy()
    igraph = {"flavor": "igraph", "n_iterations": -1, "directed": False}
    sc.pp.neighbors(out, min(neighbors, len(out) - 1), use_rep="X_clustered", method="gauss", random_state=seed)
    sc.tl.leiden(out, resolution, key_added="cluster", random_state=seed, **igraph)
    return out


def cluster_agreement(
    clusters: Labels, annotations: Labels, permutations: int = 1000, groups: Groups = None, *, seed: int = 0
) -> pd.DataFrame:
    """Adjusted Rand index of clusters and annotations of the same perturbations.

    Guides of one gene share their annotation and, mostly, their cluster, so they are no independent draws; with their
    gene as group, annotations are permuted over genes and guides of a gene stay together.

    Parameters
    ----------
    clusters
        Cluster of each perturbation, by name.
    annotations
        Label of each perturbation, by name; perturbations without one are left out.
    permutations
        Number of permutations of the annotations, for the p-value.
    groups
        Group of each perturbation, by name, or a function of the name. None: each perturbation is a group of its own.
    seed
        Seed of the permutations.

    Returns
    -------
    DataFrame
        One row. "adjusted_rand" is 1 for the same partition and 0 on average for unrelated ones; "p_value" is the share
        of permutations of the annotations that do as well; also the number of annotated "perturbations", of "clusters",
        of "labels", and of "groups", which are what was permuted.

    Raises
    ------
    ValueError
        For unknown perturbations, no overlap, a single label, a perturbation without a group, or a group with two
        labels.

    References
    ----------
    Hubert and Arabie (1985), Comparing partitions.
    """
    found = pd.Series(clusters).dropna()
    labels = _labels(found.index, annotations)
    found = found[labels.index]
    label, member = _by_group(labels, groups, "group")
    score = metrics.adjusted_rand_score(labels, found)
    null = [metrics.adjusted_rand_score(moved[member], found) for moved in _permuted(label, permutations, seed)]
    row = {"adjusted_rand": score, "p_value": _p_value(score, null), "perturbations": len(labels)}
    return pd.DataFrame([row | {"clusters": found.nunique(), "labels": labels.nunique(), "groups": len(label)}])


def pathway_prediction(
    table: AnnData,
    annotations: Labels,
    gene_of: Groups,
    *,
    layer: str | None = None,
    folds: int = 5,
    permutations: int = 20,
    trees: int = 50,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """How well the rows of a table (masks, effects) tell the annotation of a perturbation, by cross-validation.

    Two classifiers with equally weighted classes: logistic regression on standardised columns, and a random forest.
    The folds are of genes, with classes in like numbers, so that guides of one gene never lie on both sides
    (scikit-learn's StratifiedGroupKFold). The score is balanced accuracy, the mean over classes of the share
    recovered, of all out-of-fold predictions.
    The source paper's own definition of this analysis is not known to us; this one is ours.

    Parameters
    ----------
    table
        A row a perturbation, a column a feature.
    annotations
        Label of each perturbation, by name; perturbations without one are left out.
    gene_of
        Gene of each perturbation, by name, or a function of the name, such as `annotation.gene_of` where guides are
        named so.
    layer
        Layer that holds the features; None for X.
    folds
        Number of folds, at least 2.
    permutations
        Number of runs with the annotations permuted over genes; 0 leaves out the rows of these and the p-value.
    trees
        Number of trees of the random forest; 0 leaves it out.
    resamples
        Number of bootstrap samples of genes, for the interval.
    seed
        Seed of the folds, forests, permutations and bootstrap samples.

    Returns
    -------
    DataFrame
        Two rows a "classifier". Where "labels" is "observed": "balanced_accuracy" with its 95% bootstrap interval over
        genes "low" to "high", and "p_value", the share of permutations that do as well. Where it is "permuted": the
        mean and the central 95% of the runs with the annotations permuted over genes, which is what the table tells by
        chance. Also "chance" = 1 / classes, "classes", "genes", "perturbations".

    Raises
    ------
    ValueError
        For unknown perturbations, no overlap, a single label, a gene with two labels, a perturbation without a gene,
        labels of fewer genes than folds, fewer than two folds, missing values or an unknown layer.
    """
    values, label, group = _annotated(table, layer, annotations, gene_of)
    sizes = label.value_counts()
    require(folds > 1, f"folds is {folds}; at least 2 are needed.")
    few = f"Label {sizes.index[-1]!r} has {sizes.iloc[-1]} genes, but {folds} folds need as many each; lower folds."
    require(sizes.min() >= folds, few)
    codes = pd.factorize(label, sort=True)[0]
    truths = [y[group] for y in (codes, *_permuted(codes, permutations, seed))]
    equal = np.full(len(label), 1 / len(label))
    times = np.random.default_rng(seed).multinomial(len(label), equal, resamples)  # each gene is in a bootstrap sample
    folded = {"groups": group, "cv": model_selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)}
    linear = linear_model.LogisticRegression(class_weight="balanced", max_iter=1000)
    classifiers = {"logistic regression": pipeline.make_pipeline(preprocessing.StandardScaler(), linear)}
    forest = ensemble.RandomForestClassifier(trees, class_weight="balanced", random_state=seed)
    rows: list[tuple] = []
    for name, classifier in (classifiers | ({"random forest": forest} if trees else {})).items():
        told = [model_selection.cross_val_predict(classifier, values.to_numpy(), y, **folded) for y in truths]
        score, *null = map(_balanced, truths, told)
        drawn = _balanced(truths[0], told[0], times[:, group])
        rows += [(name, "observed", score, *np.quantile(drawn, TAILS), _p_value(score, null) if null else np.nan)]
        if permutations:
            rows += [(name, "permuted", np.mean(null), *np.quantile(null, TAILS), np.nan)]
    columns = ["classifier", "labels", "balanced_accuracy", "low", "high", "p_value"]
    counts = {"classes": len(sizes), "genes": len(label), "perturbations": len(values)}
    return pd.DataFrame(rows, columns=columns).assign(chance=1 / len(sizes), **counts)


def axis_enrichment(
    table: AnnData, annotations: Labels, gene_of: Groups = None, *, layer: str | None = "M", threshold: float = 0.5
) -> pd.DataFrame:
    """Which annotations the perturbations of a latent axis share.

    A perturbation is on an axis where the absolute value is above `threshold`. Of N annotated perturbations, n are on
    the axis, K have the annotation and k both: the p-value is the hypergeometric P(>= k). Axes with no annotated
    perturbation on are left out, since nothing can be found there.

    Parameters
    ----------
    table
        Perturbations x latent axes: masks or effects.
    annotations
        Label of each perturbation, by name; perturbations without one are left out.
    gene_of
        Gene of each perturbation, by name, or a function of the name. Where several guides hit one gene they are no
        independent draws; with this the absolute values of a gene's rows are averaged first and all counts are of
        genes. None counts perturbations.
    layer
        Layer that is compared with the threshold, by default the mask probabilities; None for X.
    threshold
        Absolute value above which a perturbation is on an axis.

    Returns
    -------
    DataFrame
        A row for each ("axis", "annotation"), best first: "both" is k, "on" n, "annotated" K, "total" N; "expected" =
        n K / N, "fold" = k / expected; "p_value", and "fdr", its Benjamini-Hochberg adjustment over all rows.

    Raises
    ------
    ValueError
        For unknown perturbations, no overlap, a single label, a gene with two labels, a perturbation without a gene,
        missing values, an unknown layer, or if nothing is on.
    """
    values, label, group = _annotated(table, layer, annotations, gene_of)
    on = values.abs().groupby(group).mean() > threshold
    require(on.any(axis=None), f"No value is above the threshold of {threshold}; lower it, or choose another layer.")
    has = pd.get_dummies(label.reset_index(drop=True)).rename_axis(columns="annotation")
    both = on.loc[:, on.any()].rename_axis(columns="axis").T.astype(int) @ has.astype(int)
    rows = both.stack().rename("both").reset_index()
    rows = rows.assign(on=rows["axis"].map(on.sum()), annotated=rows["annotation"].map(has.sum()), total=len(label))
    rows["expected"] = rows["on"] * rows["annotated"] / rows["total"]
    rows["fold"] = rows["both"] / rows["expected"]
    rows["p_value"] = hypergeom.sf(rows["both"] - 1, rows["total"], rows["annotated"], rows["on"])
    rows["fdr"] = false_discovery_control(rows["p_value"])
    return rows.sort_values("p_value", kind="stable", ignore_index=True)


def guide_agreement(
    table: AnnData, gene_of: Groups, *, layer: str | None = None, permutations: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Are guides of one gene more alike than guides of different genes?

    Similarity is the cosine of two rows (0 with a row of zeros).

    Parameters
    ----------
    table
        A row a guide: masks or effects.
    gene_of
        Gene of each guide, by name, or a function of the name, such as `annotation.gene_of` where guides are named so.
    layer
        Layer whose rows are compared; None for X.
    permutations
        Number of permutations of the genes over guides, for the p-value.
    seed
        Seed of the permutations.

    Returns
    -------
    DataFrame
        One row. "within" and "between" are the mean similarities over pairs of guides of one gene and of two genes,
        "difference" is theirs; "p_value" is the share of permutations with as large a difference. Also "pairs_within",
        "pairs_between", and "genes", the number with two guides or more.

    Raises
    ------
    ValueError
        For missing values, an unknown layer, a guide without a gene, or if no gene or every gene is shared.
    """
    values = _values(table, layer)
    gene, genes = pd.factorize(groups_of(values.index, gene_of, "gene"))
    first, second = np.triu_indices(len(gene), 1)
    similarity, same = metrics.pairwise.cosine_similarity(values)[first, second], gene[first] == gene[second]
    require(same.any(), "No gene has two guides in the table; say with gene_of= which guides share one.")
    require(not same.all(), "All guides in the table are of one gene; nothing is there to compare them with.")

    def difference(gene: np.ndarray) -> float:
        same = gene[first] == gene[second]
        return similarity[same].mean() - similarity[~same].mean()

    null = [difference(moved) for moved in _permuted(gene, permutations, seed)]
    row = {"within": similarity[same].mean(), "between": similarity[~same].mean(), "difference": difference(gene)}
    row |= {"p_value": _p_value(difference(gene), null), "pairs_within": same.sum(), "pairs_between": (~same).sum()}
    return pd.DataFrame([row | {"genes": (np.bincount(gene) > 1).sum()}])


def _permuted(values: pd.Series | np.ndarray, permutations: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.permutation(values) for _ in range(permutations))


def _p_value(score: float, null: list[float]) -> float:
    """Share of {score} and null that reach the score; the tolerance takes equal sums in another order as equal."""
    return (1 + (np.asarray(null) >= score - 1e-9).sum()) / (1 + len(null))


def _values(table: AnnData, layer: str | None) -> pd.DataFrame:
    """X or a layer, without missing values."""
    known = f"choose one of {sorted(map(str, table.layers))}, or None"
    require(layer is None or layer in table.layers, f"The table has no layer {layer!r}; {known}.")
    values = table.to_df(layer)
    wrong = values.index[~np.isfinite(values.to_numpy()).all(1)]
    require(not len(wrong), f"{len(wrong)} perturbations have missing values ({', '.join(wrong[:3])}); drop them.")
    return values


def _labels(names: pd.Index, annotations: Labels) -> pd.Series:
    """The labels of the annotated names, in the order of the names."""
    given = pd.Series(annotations, dtype=object)
    if twice := sorted(set(given.index[given.index.duplicated()])):
        raise ValueError(f"{twice[0]!r} is annotated twice; give each perturbation one label.")
    if unknown := [name for name in given.index if name not in names]:
        hint = did_you_mean(unknown[0], list(names)) or "; keep those of its perturbations."
        raise ValueError(f"The annotations name {unknown[0]!r}, which the table does not hold{hint}")
    labels = given.reindex(names).dropna().astype(str)
    require(len(labels), "No perturbation of the table is annotated; their names must be the same in both.")
    one = f"All {len(labels)} annotated perturbations are labelled {labels.iloc[0]!r}"
    require(labels.nunique() > 1, f"{one}; at least two labels are needed.")
    return labels


def _by_group(labels: pd.Series, groups: Groups, what: str) -> tuple[pd.Series, np.ndarray]:
    """The one label of each group, and the position of each name's group among them."""
    member, names = pd.factorize(groups_of(labels.index, groups, what))
    kinds = labels.groupby(member)
    for name in names[kinds.nunique() > 1]:
        raise ValueError(f"Guides of {name!r} have several labels; give them one.")
    return kinds.first(), member


def _annotated(table, layer, annotations, gene_of) -> tuple[pd.DataFrame, pd.Series, np.ndarray]:
    """Values of the annotated perturbations, the label of each gene, and the position of each row's gene."""
    values = _values(table, layer)
    labels = _labels(values.index, annotations)
    return values.loc[labels.index], *_by_group(labels, gene_of, "gene")


def _balanced(y, predicted, weight=1.0):
    """Mean over classes of the (weighted) share recovered, over the classes that occur; one for each row of weights."""
    weight, classes = weight * np.ones(len(y)), np.eye(y.max() + 1)[y]
    with np.errstate(invalid="ignore"):
        return np.nanmean((weight * (y == predicted)) @ classes / (weight @ classes), axis=-1)
