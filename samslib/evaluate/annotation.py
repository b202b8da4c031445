"""What a trained model has learned about perturbations: masks and effects beside a known truth, and beside biology.

Labels of perturbations are a Series or dict name -> label. One that is absent or missing (None, NaN) says that the
perturbation has no label; one of a perturbation that the table does not hold is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import anndata
import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

from samslib.data.messages import did_you_mean
from samslib.validation import require

Labels: TypeAlias = Mapping[str, str] | pd.Series


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
    table: anndata.AnnData,
    neighbors: int = 10,
    resolution: float = 1.0,
    *,
    layer: str | None = None,
    seed: int = 0,
) -> anndata.AnnData:
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
    n = len(values)
    require(n > 2, f"The table has {n} perturbations; clusters need three at least.")
    out = table.copy()
    out.obsm["X_clustered"] = values.to_numpy()
    close = min(neighbors, n - 1)
    sc.pp.neighbors(out, n_neighbors=close, use_rep="X_clustered", method="gauss", random_state=seed)
    sc.tl.leiden(
        out, resolution=resolution, key_added="cluster", flavor="igraph", n_iterations=-1, directed=False,
        random_state=seed,
    )  # fmt: skip
    return out


def cluster_agreement(
    clusters: Labels,
    annotations: Labels,
    permutations: int = 1000,
    groups: Labels | Callable[[str], str] | None = None,
    *,
    seed: int = 0,
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
    from sklearn.metrics import adjusted_rand_score

    found = pd.Series(clusters).dropna()
    labels = _labels(found.index, annotations)
    found = found[labels.index]
    of = _genes(labels.index, str if groups is None else groups, "group")
    label = _by_gene(labels, of)
    member = label.index.get_indexer(of)
    score = adjusted_rand_score(labels, found)
    rng = np.random.default_rng(seed)
    null = [adjusted_rand_score(rng.permutation(label)[member], found) for _ in range(permutations)]
    row = {"adjusted_rand": score, "p_value": _p_value(score, null), "perturbations": len(labels)}
    return pd.DataFrame([row | {"clusters": found.nunique(), "labels": labels.nunique(), "groups": len(label)}])


def pathway_prediction(
    table: anndata.AnnData,
    annotations: Labels,
    gene_of: Labels | Callable[[str], str],
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
    values, labels, of = _annotated(table, layer, annotations, gene_of)
    per_gene = _by_gene(labels, of)
    sizes = per_gene.value_counts()
    require(folds > 1, f"folds is {folds}; at least 2 are needed.")
    few = f"Label {sizes.index[-1]!r} has {sizes.iloc[-1]} genes, but {folds} folds need as many each"
    require(sizes.min() >= folds, f"{few}; lower folds or leave it out.")
    x, codes, group = (
        values.to_numpy(),
        per_gene.astype("category").cat.codes.to_numpy(),
        per_gene.index.get_indexer(of),
    )
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(codes) for _ in range(permutations)]
    rows = []
    for name, classifier in _classifiers(trees, seed).items():
        predicted, *by_chance = (_out_of_fold(classifier, x, y[group], group, folds, seed) for y in (codes, *shuffled))
        score = _balanced(codes[group], predicted)
        null = [_balanced(y[group], p) for y, p in zip(shuffled, by_chance, strict=True)]
        low, high = _over_genes(codes, group, predicted, resamples, np.random.default_rng(seed))
        p = _p_value(score, null) if permutations else np.nan
        rows += [(name, "observed", score, low, high, p)]
        if permutations:
            rows += [(name, "permuted", np.mean(null), *np.quantile(null, [0.025, 0.975]), np.nan)]
    columns = ["classifier", "labels", "balanced_accuracy", "low", "high", "p_value"]
    sizes_of = {"classes": len(sizes), "genes": len(per_gene), "perturbations": len(labels)}
    return pd.DataFrame(rows, columns=columns).assign(chance=1 / len(sizes), **sizes_of)


def axis_enrichment(
    table: anndata.AnnData,
    annotations: Labels,
    gene_of: Labels | Callable[[str], str] | None = None,
    *,
    layer: str | None = "M",
    threshold: float = 0.5,
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
    values, labels, of = _annotated(table, layer, annotations, str if gene_of is None else gene_of)
    values, labels = values.abs().groupby(of.to_numpy()).mean(), _by_gene(labels, of).sort_index()
    on = values.to_numpy() > threshold
    require(on.any(), f"No value is above the threshold of {threshold}; lower it, or choose another layer.")
    has = pd.get_dummies(labels).astype(int)
    both = pd.DataFrame(on.T.astype(int) @ has.to_numpy(), index=values.columns, columns=has.columns)[on.any(0)]
    rows = both.rename_axis(index="axis", columns="annotation").stack().rename("both").reset_index()
    rows["on"] = rows["axis"].map(dict(zip(values.columns, on.sum(0), strict=True)))
    rows["annotated"], rows["total"] = rows["annotation"].map(has.sum()), len(labels)
    rows["expected"] = rows["on"] * rows["annotated"] / rows["total"]
    rows["fold"] = rows["both"] / rows["expected"]
    rows["p_value"] = hypergeom.sf(rows["both"] - 1, rows["total"], rows["annotated"], rows["on"])
    rows["fdr"] = false_discovery_control(rows["p_value"])
    return rows.sort_values("p_value", kind="stable", ignore_index=True)


def guide_agreement(
    table: anndata.AnnData,
    gene_of: Labels | Callable[[str], str],
    *,
    layer: str | None = None,
    permutations: int = 1000,
    seed: int = 0,
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
    from sklearn.metrics.pairwise import cosine_similarity

    values = _values(table, layer)
    of = _genes(values.index, gene_of).to_numpy()
    first, second = np.triu_indices(len(of), 1)
    similarity = cosine_similarity(values)[first, second]
    code = np.unique(of, return_inverse=True)[1]
    same = code[first] == code[second]
    require(same.any(), "No gene has two guides in the table; say with gene_of= which guides share one.")
    require(not same.all(), "All guides in the table are of one gene; nothing is there to compare them with.")

    def gap(code: np.ndarray) -> float:
        same = code[first] == code[second]
        return similarity[same].mean() - similarity[~same].mean()

    rng = np.random.default_rng(seed)
    null = [gap(rng.permutation(code)) for _ in range(permutations)]
    row = {"within": similarity[same].mean(), "between": similarity[~same].mean(), "difference": gap(code)}
    row |= {"p_value": _p_value(gap(code), null), "pairs_within": same.sum(), "pairs_between": (~same).sum()}
    return pd.DataFrame([row | {"genes": (np.bincount(code) > 1).sum()}])


def _p_value(score: float, null: list[float]) -> float:
    """Share of {score} and null that reach the score; the tolerance takes equal sums in another order as equal."""
    return (1 + (np.asarray(null) >= score - 1e-9).sum()) / (1 + len(null))


def _values(table: anndata.AnnData, layer: str | None) -> pd.DataFrame:
    """X or a layer, without missing values."""
    known = sorted(map(str, table.layers))
    require(layer is None or layer in known, f"The table has no layer {layer!r}; choose one of {known}, or None.")
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


def _genes(names: pd.Index, genes: Labels | Callable[[str], str], what: str = "gene") -> pd.Series:
    """The gene of each name, or another group of names that share a label."""
    of = pd.Series([genes(n) for n in names], names) if callable(genes) else pd.Series(genes).reindex(names)
    wrong = of.index[of.isna()]
    few = ", ".join(wrong[:3])
    require(not len(wrong), f"{len(wrong)} perturbations have no {what} ({few}); give each of them one.")
    return of.astype(str)


def _annotated(table, layer, annotations, genes) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Values, labels and genes of the annotated perturbations."""
    values = _values(table, layer)
    labels = _labels(values.index, annotations)
    return values.loc[labels.index], labels, _genes(labels.index, genes)


def _by_gene(labels: pd.Series, of: pd.Series) -> pd.Series:
    """The one label of each gene."""
    kinds = labels.groupby(of.to_numpy(), sort=False)
    split = kinds.nunique()
    several = split.index[split > 1]
    require(not len(several), f"Guides of {several[0] if len(several) else ''!r} have several labels; give them one.")
    return kinds.first()


def _classifiers(trees: int, seed: int) -> dict:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = LogisticRegression(class_weight="balanced", max_iter=1000)
    classifiers = {"logistic regression": make_pipeline(StandardScaler(), linear)}
    if trees:
        classifiers["random forest"] = RandomForestClassifier(trees, class_weight="balanced", random_state=seed)
    return classifiers


def _out_of_fold(classifier, x: np.ndarray, y: np.ndarray, group: np.ndarray, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(classifier, x, y, groups=group, cv=split)


def _balanced(y: np.ndarray, predicted: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean over classes of the (weighted) share recovered, over the classes that occur."""
    total = np.bincount(y, weight)
    right = np.bincount(y, (y == predicted) * (1 if weight is None else weight))
    return float((right[total > 0] / total[total > 0]).mean())


def _over_genes(codes, group, predicted, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(2,) 95% interval of the balanced accuracy over genes drawn with replacement."""
    times = rng.multinomial(len(codes), np.full(len(codes), 1 / len(codes)), size=resamples)
    return np.quantile([_balanced(codes[group], predicted, w[group].astype(float)) for w in times], [0.025, 0.975])
