"""Does an effect carry over to other cells? The treated cells of one patient, or of one cell line, are withheld.

python -m samsbook.transfer glioblastoma
python -m samsbook.transfer mcfaline

Every level of the covariate takes its turn. Its control cells are trained on, its treated cells are not, and every way
says what these look like: a model by counterfactuals of the control cells (`samslib.counterfactual_cells`), the plain
rules from the cells of the other levels. Writes `data/results/transfer-NAME.csv` with its provenance.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from sklearn.model_selection import cross_val_score

import samslib
from samsbook.probes import FOREST, LOGISTIC
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData, Schedule
from samslib.evaluate.observed import readouts
from samslib.evaluate.tables import effect_table

SCREENS = {"glioblastoma": ("glioblastoma", "patient"), "mcfaline": ("mcfaline-devel", "cell_type")}
SIZES: dict[str, Any] = {
    "latent": 30, "encoder_width": 128, "encoder_layers": 1, "decoder_width": 128, "decoder_layers": 1,
}  # fmt: skip
CPA: dict[str, Any] = SIZES | {"dose_curve": "linear"}
JOINED = "; level as a perturbation"  # the covariate is one that every cell has; else only CPA reads it
WAYS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "CPA": (samslib.CPA, CPA),
    "CPA, no adversary": (samslib.CPA, CPA | {"adversary_weight": 0.0}),
    "CPA, variational": (samslib.CPA, CPA | {"variational": True}),
    "SAMS-VAE": (samslib.SAMSVAE, SIZES),
    "SAMS-VAE" + JOINED: (samslib.SAMSVAE, SIZES),
    "conditional VAE": (samslib.ConditionalVAE, SIZES),
    "conditional VAE" + JOINED: (samslib.ConditionalVAE, SIZES),
}
BAR = "mean effect in the others"  # of distributions, the treated cells of the others
NONE, CEILING = "no effect", "ceiling"


@dataclass(frozen=True)
class Turn:
    """One level withheld.

    Parameters
    ----------
    level
        Name of the level, such as "patient=PW030".
    data, joined
        All cells, with the level as a covariate; and with the level as a further perturbation of every cell.
    part
        (n,) "train", "val" or "test", the withheld cells.
    own
        (n,) whether a cell is of the level.
    """

    level: str
    data: PerturbationData
    joined: PerturbationData
    part: np.ndarray
    own: np.ndarray

    @property
    def controls(self) -> np.ndarray:
        """(n,) the control cells of the level, which are trained on."""
        return self.own & (self.data.n_perturbations == 0)

    @property
    def others(self) -> list[PerturbationData]:
        """All cells of each other level."""
        levels = range(len(self.data.covariates))
        parts = [self.data[self.data.covariate[:, i] == 1] for i in levels]
        return [part for i, part in enumerate(parts) if self.data.covariates[i] != self.level]


def equal_depth(adata: AnnData, covariate: str, *, seed: int = 0) -> AnnData:
    """Cells thinned to one depth: in every level, each condition has the same law of counts a cell.

    The q-th quantile of a condition's counts a cell is thinned to the least q-th quantile over conditions, counts being
    drawn without replacement. A difference in depth would else be read as an effect, for the readout depends on it.

    Parameters
    ----------
    adata
        Cells with counts in X and obs "perturbation".
    covariate
        Column of obs with the levels.
    seed
        Of the draws.

    Returns
    -------
    AnnData
        The same cells.
    """
    rng = np.random.default_rng(seed)
    x, wanted = adata.X.toarray().astype(int), np.zeros(adata.n_obs, dtype=int)
    depth = pd.Series(x.sum(1), adata.obs_names)
    for _, level in depth.groupby(adata.obs[covariate].to_numpy()):
        groups = [part for _, part in level.groupby(adata.obs.loc[level.index, "perturbation"].to_numpy())]
        for group in groups:
            q = (group.rank(method="first") - 0.5) / len(group)
            least = np.min([np.quantile(other, q, method="inverted_cdf") for other in groups], axis=0)
            wanted[adata.obs_names.get_indexer(group.index)] = np.minimum(least, group)
    thin = adata.copy()
    drawn = [rng.multivariate_hypergeometric(*of, method="marginals") for of in zip(x, wanted, strict=True)]
    thin.X = sp.csr_matrix(np.array(drawn, dtype=np.float32))
    return thin


def simulated(
    levels: int = 4, drugs: int = 6, cells: int = 60, genes: int = 80, epistasis: float = 0.0, *, seed: int = 0
) -> AnnData:
    """Cells of several lines, each with and without several drugs, drawn from the SAMS model: the state of a cell is
    moved by its line and by its drug, and the two add up unless there is epistasis.

    Parameters
    ----------
    levels, drugs
        Numbers of lines and of drugs.
    cells
        Cells of each line and condition.
    genes
        Number of genes.
    epistasis
        Share of the pairs of a line and a drug, about, that have a shift of their own.
    seed
        Of all draws.

    Returns
    -------
    AnnData
        Counts in X, obs "perturbation" and "line".
    """
    n = levels - 1 + drugs  # the first line is that of the unmoved cells
    screen: dict[str, Any] = dict(
        singles=n, pairs=n * (n - 1) // 2, cells=cells, controls=cells, genes=genes, latent=10
    )
    screen |= dict(library=(400.0, 0.4), mask_probability=0.3, effect_scale=3.0, epistasis=epistasis)
    adata = samslib.simulate.perturb_seq(**screen, seed=seed)
    lines = [str(name) for name in adata.uns["truth"]["perturbations"][: levels - 1]]
    parts = [set(label.split("+")) - {"control"} for label in adata.obs["perturbation"]]
    adata.obs = pd.DataFrame({
        "perturbation": ["+".join(sorted(part - set(lines))) or "control" for part in parts],
        "line": ["+".join(sorted(part & set(lines))) or "P00" for part in parts],
    }, adata.obs_names)  # fmt: skip
    return adata[~adata.obs.apply(lambda row: row.str.contains("+", regex=False)).any(axis=1).to_numpy()].copy()


def turns(adata: AnnData, covariate: str, *, seed: int = 0) -> list[Turn]:
    """Each level of the covariate withheld once.

    Parameters
    ----------
    adata
        Cells with counts in X, obs "perturbation" and the covariate; combinations are joined by "+".
    covariate
        Column of obs with the levels.
    seed
        Of the split of all other cells, four fifths to train on and the rest to validate on.

    Returns
    -------
    list
        A `Turn` for each level.
    """
    data = PerturbationData.from_anndata(adata, covariates=covariate)
    levels = (covariate + "=" + adata.obs[covariate].astype(str)).to_numpy()
    obs = pd.DataFrame({"perturbation": [joined(*of) for of in zip(levels, data.labels, strict=True)]}, data.cells)
    log = logging.getLogger("samslib")
    log.setLevel(logging.ERROR)  # it would warn of perturbations that are in combinations only, as is meant here
    other = PerturbationData.from_anndata(AnnData(adata.X, obs, adata.var[[]]), control=None)
    log.setLevel(logging.NOTSET)
    part = np.where(np.random.default_rng(seed).random(len(data)) < 0.8, "train", "val")
    made = []
    for level in data.covariates:
        own = levels == level
        made.append(Turn(level, data, other, np.where(own & (data.n_perturbations > 0), "test", part), own))
    return made


def joined(level: str, name: str) -> str:
    """The condition `name` of a level, where the level is a perturbation too.

    Parameters
    ----------
    level
        Name of the level, such as "patient=PW030".
    name
        Name of the condition; "control" adds nothing.

    Returns
    -------
    str
        A combination.
    """
    return level if name == "control" else "+".join(sorted([level, name]))


def fitted(turn: Turn, way: str, steps: int, *, seed: int = 0) -> tuple[Any, PerturbationData]:
    """A model of `WAYS`, trained without the withheld cells.

    Parameters
    ----------
    turn
        What is withheld.
    way
        A name in `WAYS`.
    steps
        Training steps.
    seed
        Of weights and training.

    Returns
    -------
    tuple
        The model, and all cells as it reads them.
    """
    kind, options = WAYS[way]
    data = turn.joined if way.endswith(JOINED) else turn.data
    if "covariates" not in kind.uses:
        data = replace(data, covariate=data.covariate[:, :0], covariates=())
    train, val, _ = data.split(turn.part)
    model = kind(data.summary(train), **options, seed=seed)
    critic = Schedule(pretrain=steps // 5, warm_up=steps // 5) if kind is samslib.CPA else None
    config = FitConfig(steps=steps, batch_size=256, critic=critic, seed=seed, progress=False, device="cpu")
    samslib.fit(model, train, val, config)
    return model, data


def answers(
    turn: Turn, model: Any, data: PerturbationData, names: Sequence[str], draws: int, *, seed: int = 0
) -> dict[str, list[AnnData]]:
    """What the control cells of the withheld level would have been under each condition.

    Parameters
    ----------
    turn
        What is withheld.
    model, data
        Of `fitted`.
    names
        Conditions, with "control".
    draws
        Draws of each cell.
    seed
        Of the draws.

    Returns
    -------
    dict
        Condition -> the cells of each draw.
    """
    cells = data[turn.controls]
    labels = {name: joined(turn.level, name) if data.control is None else name for name in names}
    return {
        name: [samslib.counterfactual_cells(model, cells, label, seed=seed + i) for i in range(draws)]
        for name, label in labels.items()
    }


def scored(
    turn: Turn, effect: np.ndarray | None, cells: dict[str, Any] | None, truth: PerturbationData
) -> dict[str, float]:
    """How far a way's effects and cells are from those of the withheld level.

    Parameters
    ----------
    turn
        What was withheld.
    effect
        (conditions, G) predicted effects, of the conditions in the order of `data_effects`; None scores none.
    cells
        Condition -> counts (cells, G) of predicted cells; None scores none.
    truth
        The cells of the level to compare with.

    Returns
    -------
    dict
        "pearson", "pearson_top20" and "rmse" of all effects at once, and "energy", the mean distance over conditions.
    """
    row, observed = {}, samslib.data_effects(truth)
    if effect is not None:
        control = observed.var[["control", "control_variance"]].to_numpy().T
        made = effect_table(turn.data, list(observed.obs_names), effect, {}, tuple(control), {"readout": "perturbseq"})
        table = samslib.effect_scores(made, observed, resamples=0)
        pooled = table[table["perturbation"] == "pooled"].set_index("score")["value"]
        row = pooled.reindex(["pearson", "pearson_top20", "rmse"]).to_dict()
    if cells is not None:
        labels = np.repeat(list(cells), [x.shape[0] for x in cells.values()])
        obs = pd.DataFrame({"perturbation": labels}, pd.RangeIndex(len(labels)).astype(str))
        drawn = AnnData(sp.vstack(list(cells.values()), format="csr"), obs, pd.DataFrame(index=list(truth.genes)))
        table = samslib.cell_scores(drawn, truth[truth.n_perturbations > 0], resamples=2)
        row["energy"] = table.query("perturbation == 'pooled' and score == 'energy'")["value"].item()
    return row


def mean_readout(cells: PerturbationData, x: Any) -> np.ndarray:
    """(G,) mean over cells of log2(1 + 10,000 x / sum of x), of which cells without counts are left out.

    Parameters
    ----------
    cells
        Cells of the same genes.
    x
        (cells, G) counts.

    Returns
    -------
    ndarray
        The mean.
    """
    kept = np.ravel(x.sum(1)) > 0
    return np.asarray(readouts(replace(cells, x=x[kept])).mean(0)).ravel()


def read_off(turn: Turn, model: Any, data: PerturbationData) -> dict[str, float]:
    """What probes read from the basal states of the validation cells, and the bound of these cells.

    Parameters
    ----------
    turn
        What is withheld.
    model, data
        Of `fitted`.

    Returns
    -------
    dict
        Balanced accuracies, by five-fold cross-validation: "treatment_logistic" and "treatment_forest" of a logistic
        regression and a random forest that tell the condition, "level_logistic" of one that tells the level; and
        "bound", nats a cell, comparable between models whose encoders give a law, and between those that do not.
    """
    val = turn.part == "val"
    z = samslib.latents(model, data[val])[model.exogenous[0]]
    levels = turn.data.covariate[val].argmax(1)
    labels = turn.data.labels[val]
    asked = {"treatment_logistic": (LOGISTIC, labels), "treatment_forest": (FOREST, labels)}
    asked["level_logistic"] = LOGISTIC, levels
    row = {name: cross_val_score(probe, z, y, scoring="balanced_accuracy") for name, (probe, y) in asked.items()}
    bound = samslib.held_out_iwelbo(model, data[val], 10)["iwelbo"]
    return {name: float(found.mean()) for name, found in (row | {"bound": bound}).items()}


def judged(turn: Turn, model: Any, data: PerturbationData, draws: int = 5, *, seed: int = 0) -> dict[str, Any]:
    """A model on the level that was withheld from it.

    Parameters
    ----------
    turn
        What is withheld.
    model, data
        Of `fitted`.
    draws
        Draws of each control cell; the first of them are the cells that are compared.
    seed
        Of the draws.

    Returns
    -------
    dict
        Scores of `scored`, and what `read_off` says.
    """
    truth = turn.data[turn.own]
    names = list(samslib.data_effects(truth).obs_names)
    drawn = answers(turn, model, data, ["control", *names], draws, seed=seed)
    means = [mean_readout(truth, sp.vstack([one.X for one in of], format="csr")) for of in drawn.values()]
    row = scored(turn, np.array(means[1:]) - means[0], {name: drawn[name][0].X for name in names}, truth)
    return row | read_off(turn, model, data)


def without_a_model(turn: Turn, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """The plain rules on one turn, and the ceilings.

    Parameters
    ----------
    turn
        What is withheld.
    seed
        Of the halves.

    Returns
    -------
    dict
        Way -> scores of `scored`. The ceiling of the energy distance is between two halves of the withheld cells.
    """
    truth, others = turn.data[turn.own], turn.others
    names = list(samslib.data_effects(truth).obs_names)
    x = [samslib.data_effects(other)[names].X for other in others]
    theirs = {name: sp.vstack([other[other.labels == name].x for other in others]) for name in names}
    kept = dict.fromkeys(names, turn.data[turn.controls].x)
    rows = {BAR: scored(turn, np.mean(x, axis=0), theirs, truth)}
    rows[NONE] = scored(turn, np.zeros_like(x[0]), kept, truth)
    first = np.random.default_rng(seed).random(len(truth)) < 0.5
    halves = {name: truth[first & (truth.labels == name)].x for name in names}
    ceiling = samslib.noise_ceiling(truth, seed=seed).query("perturbation == 'pooled'").set_index("score")["ceiling"]
    rows[CEILING] = ceiling.reindex(["pearson", "pearson_top20", "rmse"]).to_dict()
    rows[CEILING] |= scored(turn, None, halves, truth[~first | (truth.n_perturbations == 0)])
    return rows


def compared(adata: AnnData, covariate: str, ways: Sequence[str], steps: int, *, seed: int = 0) -> pd.DataFrame:
    """Every way on every turn.

    Parameters
    ----------
    adata
        Cells with counts in X, obs "perturbation" and the covariate.
    covariate
        Column of obs with the levels.
    ways
        Names in `WAYS`.
    steps
        Training steps of each model.
    seed
        Of everything random.

    Returns
    -------
    DataFrame
        A row a turn and way, the plain rules and the ceilings with them.
    """
    rows = []
    for turn in turns(adata, covariate, seed=seed):
        for way, row in without_a_model(turn, seed=seed).items():
            rows.append({"withheld": turn.level, "way": way} | row)
        for way in ways:
            begun = time.perf_counter()
            row = judged(turn, *fitted(turn, way, steps, seed=seed), seed=seed)
            rows.append({"withheld": turn.level, "way": way, **row, "seconds": time.perf_counter() - begun})
    return pd.DataFrame(rows)


def main() -> None:
    """Read the command line, run every way on every turn, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("screen", choices=SCREENS, help="the real cells")
    parser.add_argument("--steps", type=int, default=500, help="training steps of each model, 5 or more")
    asked = parser.parse_args()
    if asked.steps < 5:
        parser.error(f"--steps is {asked.steps}; give 5 or more.")
    torch.set_num_threads(1)
    start = time.perf_counter()
    name, covariate = SCREENS[asked.screen]
    adata = equal_depth(samslib.datasets.load(name), covariate)
    table = compared(adata, covariate, list(WAYS), asked.steps)
    facts = {"parameters": {"seed": 0, "steps": asked.steps}, "data_sha256": samslib.datasets.sha256(name)}
    path = write_results(f"transfer-{asked.screen}", table, **facts, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
