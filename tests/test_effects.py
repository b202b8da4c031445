from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, Echo, LinearGaussian, data_for, ignored, linear_data, make_data, make_model

import samslib
from samslib.evaluate.streams import reseed
from samslib.evaluate.tables import perturbseq
from samslib.trace import Trace


@pytest.fixture(scope="module")
def trained():
    data = make_data(cells=300)
    torch.manual_seed(0)
    model = samslib.CPAVAE(data.summary(), **SMALL)
    samslib.fit(model, data, None, samslib.FitConfig(steps=400, learning_rate=0.01, progress=False))
    return model, data


def test_effects_find_the_genes_that_were_doubled(trained):
    model, data = trained
    effects = samslib.average_effects(model, data, particles=400)
    assert list(effects.obs_names) == ["A", "B", "C", "A+B"] and effects.shape == (4, 12)
    table = effects.to_df()
    assert table.loc["A"].idxmax() == "gene0" and table.loc["B"].idxmax() == "gene1"
    assert set(table.loc["A+B"].nlargest(2).index) == {"gene0", "gene1"}
    assert table.loc["C"].abs().max() < 0.5 * table.loc["A", "gene0"]


def test_the_standard_error_is_that_of_repeats(trained):
    """The spread of 30 repeats is within a factor 2 of the mean reported error (chance of failing below 1e-4)."""
    model, data = trained
    runs = [samslib.average_effects(model, data, ["A"], particles=60, seed=s) for s in range(30)]
    spread = np.std([r.X for r in runs], axis=0, ddof=1).mean()
    reported = np.mean([r.layers["standard_error"] for r in runs])
    assert 0.5 < spread / reported < 2


def test_holding_the_basal_state_lowers_the_error(trained):
    model, data = trained
    deep = {"particles": 500, "library": 1e5}  # so deep that the cells' own variation, not counting, is the noise
    held, free = (samslib.average_effects(model, data, ["A"], hold=h, **deep) for h in (True, False))
    assert held.layers["standard_error"].mean() < free.layers["standard_error"].mean()


def test_names_in_any_order_and_new_combinations(trained):
    model, data = trained
    a, b = (samslib.average_effects(model, data, [name], particles=20) for name in ("A+B", "B+A"))
    np.testing.assert_array_equal(a.X, b.X)
    assert samslib.average_effects(model, data, ["B+C"], particles=20).shape == (1, 12)


def test_settings_travel_and_errors_are_named(trained):
    model, data = trained
    assert samslib.average_effects(model, data, ["A"], particles=8, library=1e4).uns["samslib"]["library"] == "10000.0"
    for arguments, message in [
        ({"perturbations": ["Z"]}, "Z"),
        ({"readout": "rank"}, "readout is 'rank'"),
        ({"library": "big"}, "library is 'big'"),
        ({"library": 0}, "library is 0"),
        ({"perturbations": []}, "perturbations is empty"),
        ({"perturbations": "A"}, "give a list of names"),
        ({"particles": 1}, "particles is 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            samslib.average_effects(model, data, **{"particles": 4} | arguments)


def linear_gaussian():
    data = linear_data()
    return LinearGaussian(data.summary()).double(), data


@pytest.mark.parametrize("hold", [True, False])
def test_effects_are_unbiased_and_their_errors_honest(hold):
    """100 repeats against the closed form of a linear Gaussian model. Standardised errors are near-normal: their means
    over repeats stay within 5 / sqrt(100), and twice the error covers the truth in 94.9% (t, 49 degrees of freedom).
    That share has standard deviation 1.3% if every repeat counts as three independent arms; 6.4% is five of them."""
    model, data = linear_gaussian()
    names = ["A", "B", "A+C"]
    truth = model.effects(torch.cat([data.dose_of(name) for name in names]))
    ask = lambda seed: samslib.average_effects(model, data, names, 50, "mean", hold, seed=seed)  # noqa: E731
    runs = [ask(seed) for seed in range(100)]
    z = np.stack([(run.X - truth) / run.layers["standard_error"] for run in runs])
    assert abs(z.mean(0)).max() < 5 / np.sqrt(len(runs))
    assert abs((abs(z) < 2).mean() - 0.949) < 0.064


def test_the_posterior_variance_is_that_of_the_shared_latents_alone():
    """Against the closed form of the linear Gaussian model, V = spread^2 |dose|^2 |W_g|^2. The covariance of two Normal
    estimates of 1000 draws, each with simulation noise of variance 0.25, has standard deviation
    sqrt((V^2 + (V + 0.25)^2) / 1000); five of them are exceeded, by this or by an effect, with a chance below 1e-4."""
    model, data = linear_gaussian()
    names = ["A", "B", "A+C"]
    found = samslib.evaluate.effects.posterior_effects(model, data, names, 1000, 4, "mean")
    doses = torch.cat([data.dose_of(name) for name in names]).numpy()
    truth = 0.4**2 * (doses**2).sum(1)[:, None] * model.W.detach().square().sum(1).numpy()
    error = np.sqrt((truth**2 + (truth + 0.25) ** 2) / 1000)
    assert (abs(found.layers["posterior_variance"] - truth) < 5 * error).all()
    z = (found.X - model.effects(torch.as_tensor(doses))) / found.layers["standard_error"]
    assert abs(z).max() < 5


def test_variances_are_unbiased_at_two_draws():
    """What is reported over what is true in the linear Gaussian model, a mean over 200 repeats, two perturbations and
    four genes; dividing by n for n - 1 would give 0.5, or 0.75 of the four control cells of `posterior_effects`. The
    standard deviations of these means are 0.05 to 0.06, 0.08 for the posterior variance and 0.03 for the last."""
    data = linear_data()
    model = LinearGaussian(data.summary(), posterior_spread=2.0).double()
    cell, noise = model.W.detach().square().sum(1).numpy(), model.NOISE**2
    shared = model.spread**2 * cell

    def ratio(runs, reported, expected):
        return np.mean([reported(run) / expected for run in runs])

    error = lambda run: 2 * run.layers["standard_error"] ** 2  # noqa: E731
    control = lambda run: run.var["control_variance"].to_numpy()  # noqa: E731
    plain = {"control_variates": False}
    runs = [samslib.average_effects(model, data, ["A", "B"], 2, "mean", **plain, seed=seed) for seed in range(100)]
    assert ratio(runs, lambda run: run.layers["variance"], shared + cell + noise) == pytest.approx(1, abs=0.2)
    assert ratio(runs, error, shared + 2 * noise) == pytest.approx(1, abs=0.2)
    assert ratio(runs, control, cell + noise) == pytest.approx(1, abs=0.2)
    ask = samslib.evaluate.effects.posterior_effects
    runs = [ask(model, data, ["A", "B"], 2, 2, "mean", **plain, seed=seed) for seed in range(100)]
    assert ratio(runs, lambda run: run.layers["posterior_variance"], shared) == pytest.approx(1, abs=0.3)
    assert ratio(runs, error, shared + noise) == pytest.approx(1, abs=0.2)
    assert ratio(runs, control, cell + noise) == pytest.approx(1, abs=0.12)


def test_simulation_noise_is_no_posterior_variance():
    """A model without shared latents has none: the mean over genes is within five standard errors of 0."""
    data = make_data(cells=300)
    model = samslib.BASELINES["additive"](data.summary(pseudobulk=True))
    found = samslib.evaluate.effects.posterior_effects(model, data, ["A", "A+C"], 200, 10).layers["posterior_variance"]
    assert abs(found.mean()) < 5 * found.std() / np.sqrt(found.size)
    with pytest.raises(ValueError, match="cells is 3; give an even number"):
        samslib.evaluate.effects.posterior_effects(model, data, ["A"], 10, 3)


def test_effects_at_the_controls_depths_are_unbiased_and_their_errors_honest():
    """The additive baseline's shares are known, so its effect on mean counts is the controls' mean library times their
    change; 60 repeats, bounds as above (coverage 94.9%, five standard deviations of 2.0%)."""
    data = make_data(cells=300)
    model = samslib.BASELINES["additive"](data.summary(pseudobulk=True))
    names = ["A", "A+C"]
    dose = torch.cat([torch.zeros(1, 3), *(data.dose_of(name) for name in names)])
    c = samslib.Condition(dose, torch.ones(3, 1), torch.zeros(3, 0), torch.zeros(3, 0))
    share = model.generate(Trace(1), c).mean[0].detach().numpy()
    truth = data.library[data.labels == "control"].mean() * (share[1:] - share[0])
    runs = [samslib.average_effects(model, data, names, 50, "mean", seed=seed) for seed in range(60)]
    z = np.stack([(run.X - truth) / run.layers["standard_error"] for run in runs])
    assert abs(z.mean(0)).max() < 5 / np.sqrt(len(runs))
    assert abs((abs(z) < 2).mean() - 0.949) < 0.1


def test_tiles_of_arms_do_not_share_their_noise():
    """64 arms of one law, two tiles: errors correlate by the control alone, and no arm repeats another's counts."""
    data = make_data()
    model = samslib.BASELINES["control_mean"](data.summary(pseudobulk=True))
    X = samslib.average_effects(model, data, [{"A": i + 1} for i in range(64)], 25).X
    assert len(np.unique(X.round(9), axis=0)) == 64


def test_control_mean_and_variances_are_the_arms_own():
    """Within 5 standard errors of the closed form; a sample variance of n normal values has error sqrt(2 / n)."""
    model, data = linear_gaussian()
    effects = samslib.average_effects(model, data, ["A"], 4000, "mean")
    W = model.W.detach().numpy()
    cell = (W**2).sum(1) + model.NOISE**2
    np.testing.assert_allclose(effects.var["control_variance"], cell, rtol=5 * np.sqrt(2 / 4000))
    arm = cell + model.spread**2 * (W**2).sum(1)
    np.testing.assert_allclose(effects.layers["variance"][0], arm, rtol=5 * np.sqrt(2 / 4000))
    assert (abs(effects.var["control"]) < 5 * np.sqrt(cell / 4000)).all()


def test_as_published_is_a_library_of_10000_without_holding(trained):
    model, data = trained
    published = samslib.average_effects(model, data, ["A"], particles=50, as_published=True)
    asked = {"library": 1e4, "hold": False, "control_variates": False}
    same = samslib.average_effects(model, data, ["A"], particles=50, **asked)
    np.testing.assert_array_equal(published.X, same.X)
    assert published.uns["samslib"]["median_library"] == 1e4 and not published.uns["samslib"]["hold"]
    agreeing = asked | {"as_published": True}
    again = samslib.average_effects(model, data, ["A"], particles=50, **agreeing)
    np.testing.assert_array_equal(published.X, again.X)
    for name, value in (("library", 500), ("library", "data"), ("hold", True)):
        with pytest.raises(ValueError, match=f"{name} is {value!r}, but as_published is {name}=.*; leave {name} out"):
            samslib.average_effects(model, data, ["A"], particles=50, as_published=True, **{name: value})


def test_covariates_of_a_model_that_reads_none_are_refused():
    data = make_data(covariates=True)
    with pytest.warns(UserWarning, match="SAMSVAE ignores the covariates"):
        model = samslib.SAMSVAE(data.summary(), **SMALL)
    for ask in (samslib.average_effects, samslib.evaluate.effects.posterior_effects, samslib.sample_cells):
        assert np.isfinite(ask(model, data, ["A"]).X.sum())
        with pytest.raises(ValueError, match="covariates is .*, but SAMSVAE reads none; leave covariates out"):
            ask(model, data, ["A"], covariates=["line=x", "plate=1"])


def test_the_default_takes_depths_and_covariates_of_control_cells_together():
    """CPA with covariates: the mixture of levels gives the mixture of effects and of control means (five standard
    errors of three runs, 36 entries)."""
    data = make_data(covariates=True)
    model = make_model("cpa covariates", data.summary())
    with torch.no_grad():
        model.covariate_embedding.mul_(20)
    ask = lambda levels: samslib.average_effects(model, data, ["A", "B"], 2000, "mean", library=50, covariates=levels)  # noqa: E731
    runs = [ask(levels) for levels in ((), ["line=x", "plate=1"], ["line=y", "plate=1"])]
    share = data.covariate[data.labels == "control"][:, data.covariates.index("line=x")].mean()
    mix = lambda mixed, x, y: abs(mixed - share * x - (1 - share) * y)  # noqa: E731
    error = np.sqrt(sum(run.layers["standard_error"] ** 2 for run in runs))
    assert (mix(*(run.X for run in runs)) < 5 * error).all()
    controls = [run.var["control"].to_numpy() for run in runs]
    error = np.sqrt(sum(run.var["control_variance"].to_numpy() / 2000 for run in runs))
    assert (mix(*controls) < 5 * error).all() and (abs(controls[1] - controls[2]) > 10 * error).any()
    with pytest.raises(ValueError, match="no level"):
        ask(["line=z", "plate=1"])


def test_doses_are_given_by_perturbation():
    model, data = linear_gaussian()
    effects = samslib.average_effects(model, data, [{"A": 0.5, "B": 2}, "B"], 500, "mean")
    assert list(effects.obs_names) == ["A=0.5+B=2", "B"]
    dose = torch.cat([0.5 * data.dose_of("A") + 2 * data.dose_of("B"), data.dose_of("B")])
    assert (abs(effects.X - model.effects(dose)) < 5 * effects.layers["standard_error"]).all()


def test_sampled_cells_have_the_moments_of_their_arm():
    """Five standard errors of a mean of 2,000 cells, 4 genes, two arms; and of their correlation, for cells of two arms
    have nothing in common."""
    model, data = linear_gaussian()
    cells = samslib.sample_cells(model, data, ["control", "B"], cells=2000)
    x, truth = np.asarray(cells.X), model.effects(data.dose_of("B"))
    assert cells.obs["perturbation"].value_counts().to_dict() == {"control": 2000, "B": 2000}
    for name, mean in (("control", 0), ("B", truth[0])):
        part = x[(cells.obs["perturbation"] == name).to_numpy()]
        assert (abs(part.mean(0) - mean) < 5 * part.std(0) / np.sqrt(2000)).all()
    both = (cells.obs["perturbation"] == "B").to_numpy()
    assert abs(np.corrcoef(x[both].T, x[~both].T)[:4, 4:]).max() < 5 / np.sqrt(2000)


@pytest.mark.filterwarnings("ignore:Echo ignores")
def test_a_control_cell_lends_its_library_with_its_own_covariates():
    data = make_data(covariates=True)
    drawn = samslib.sample_cells(Echo(data.summary()), data, ["B"], cells=200).X.toarray()[:, :7]
    lending = data[data.labels == "control"]
    own = np.column_stack([lending.library, np.tile([0, 1, 0], (len(lending), 1)), lending.covariate])
    assert (abs(drawn[:, None] - own) < 1e-3).all(2).any(1).all() and len(set(drawn[:, 0].round())) > 10


def test_without_controls_all_cells_lend_and_the_settings_say_what_was_drawn(trained):
    model, data = trained
    treated = data[data.labels != "control"]
    for cells in (data[data.labels == "control"], treated):
        asked = treated if cells is treated else data
        found = samslib.average_effects(model, asked, ["A", "B"], particles=5).uns["samslib"]
        assert found["median_library"] in cells.library and found["empty_cells"] == 0
    thin = samslib.average_effects(model, data, ["A", "B"], particles=500, library=1e-6).uns["samslib"]
    assert thin["empty_cells"] == pytest.approx(1, abs=0.01)  # 12 genes of mean 1e-4 each are left


def test_counterfactuals_and_latents_are_means_over_all_draws():
    """Those of the linear Gaussian model are linear in E, so their expectations are at its mean. The means of 4,000
    draws are within five standard errors; of one draw, no entry has a larger standard deviation than 0.5 (latents) and
    1.6 (counterfactuals). The posterior mean of z is off by 0.3, as the model is made."""
    model, data = linear_gaussian()
    W, centre, x = model.W.detach().numpy(), model.centre.detach().numpy(), np.asarray(data.x, dtype=float)
    pull = W @ np.linalg.inv(np.eye(2) + W.T @ W / model.NOISE**2) / model.NOISE**2
    z = (x - data.dose.toarray() @ centre @ W.T) @ pull + 0.3
    assert abs(samslib.latents(model, data, 4000)["z"] - z).max() < 5 * 0.5 / np.sqrt(4000)
    expected = (z + data.dose_of("B").numpy() @ centre) @ W.T
    assert abs(samslib.counterfactual(model, data, "B", 4000) - expected).max() < 5 * 1.6 / np.sqrt(4000)


def test_sampled_counts_are_as_deep_as_the_controls(trained):
    model, data = trained
    cells = samslib.sample_cells(model, data, cells=300)
    depth = np.asarray(cells.X.sum(1)).ravel()
    assert cells.shape == (1500, 12) and (cells.X.data == np.rint(cells.X.data)).all()
    assert np.median(depth) == pytest.approx(np.median(data.library[data.labels == "control"]), rel=0.1)


def test_the_readout():
    x = torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = np.log2(1 + 1e4 * np.array([[0, 0.75, 0.25], [0, 1, 0], [0, 0, 0]]))
    np.testing.assert_allclose(perturbseq(x).numpy(), expected, rtol=1e-6)


def test_a_counterfactual_moves_the_gene_of_the_dose(trained):
    model, data = trained
    controls = data[data.labels == "control"]
    stay, move = (samslib.counterfactual(model, controls, name) for name in ("control", "A"))
    assert stay.shape == controls.shape
    change = (move / stay).mean(0)
    assert change.argmax() == 0 and change[0] > 1.5
    np.testing.assert_allclose(stay.sum(1), controls.library, rtol=1e-3)


def test_counterfactual_cells_are_draws_of_the_counterfactual(trained):
    """Means over cells of 100 draws a cell against the expectation of 100 particles: each draw is one of the latents
    and of the counts, so that the mean of a gene is within five of its standard errors (12 genes; 1 in 100,000 runs).
    A cell keeps its library and its place, and its own dose where none is set."""
    model, data = trained
    cells = data[(data.labels == "control") | (data.labels == "B")][::3]
    drawn = [samslib.counterfactual_cells(model, cells, "A", seed=seed) for seed in range(100)]
    x = np.stack([one.X.toarray() for one in drawn])
    assert (x == np.rint(x)).all() and list(drawn[0].obs_names) == list(cells.cells)
    assert (drawn[0].obs["perturbation"] == "A").all() and list(drawn[0].var_names) == list(data.genes)
    means = x.mean(1)
    error = 5 * means.std(0) / np.sqrt(len(x)) * np.sqrt(2)
    assert (abs(means.mean(0) - samslib.counterfactual(model, cells, "A", 100).mean(0)) < error).all()
    np.testing.assert_allclose(x.sum(2).mean(0), cells.library, rtol=0.1)
    obs, var = pd.DataFrame({"perturbation": cells.labels}, cells.cells), pd.DataFrame(index=list(data.genes[::-1]))
    fewer = samslib.PerturbationData.from_anndata(anndata.AnnData(cells.x[:, ::-1].copy(), obs, var))  # without A
    found = samslib.counterfactual_cells(model, fewer, "A", seed=3)
    wanted = samslib.counterfactual_cells(model, cells, "A", seed=3)
    assert list(found.var_names) == list(data.genes)
    np.testing.assert_array_equal(found.X.toarray(), wanted.X.toarray())
    own = samslib.counterfactual_cells(model, cells, None)
    assert list(own.obs["perturbation"]) == list(cells.labels)
    assert own.X[:, 0].mean() < drawn[0].X[:, 0].mean()


def test_no_argument_is_ignored():
    data = make_data(covariates=True)
    base = {"model": make_model("cpa covariates", data.summary()), "data": data}
    levels = ["line=x", "plate=1"]
    same = {"perturbations": ["A"], "library": 50, "covariates": levels, "seed": 1}
    asked = {"particles": 60, "readout": "mean", "hold": False, "as_published": True, "control_variates": False}
    assert not ignored(samslib.average_effects, base | {"particles": 50}, **same, **asked)
    few = base | {"draws": 50, "cells": 2}
    asked = {"draws": 60, "cells": 4, "readout": "mean", "control_variates": False}
    assert not ignored(samslib.posterior_effects, few, **same, **asked)
    assert not ignored(samslib.sample_cells, base | {"cells": 3}, **same, cells=4)
    assert not ignored(
        samslib.latents, base | {"model": make_model("sams_vae", make_data().summary())}, particles=3, seed=1
    )
    flagged = data_for("cradle_vae")
    base = {"model": make_model("cradle_vae", flagged.summary()), "data": flagged, "perturbation": "A"}
    assert not ignored(samslib.counterfactual, base, perturbation="B", particles=3, seed=1, qc=0)
    assert not ignored(samslib.counterfactual, base | {"qc": 0}, particles=3, seed=1, qc=1)
    assert not ignored(samslib.counterfactual_cells, base, perturbation="B", seed=1, qc=0)


def test_evaluation_leaves_the_callers_state_as_it_was(trained):
    model, data = trained
    for mode in (False, True):
        model.train(mode)
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        samslib.average_effects(model, data, ["A"], 4)
        assert model.training == mode and torch.is_grad_enabled() and torch.equal(torch.rand(3), expected)


@pytest.mark.filterwarnings("ignore:Echo ignores")
def test_simulated_cells_pass_quality_control():
    data = make_data(quality=True)
    cells = samslib.sample_cells(Echo(data.summary()), data, ["control", "A"], cells=20)
    assert abs(cells.X.toarray()[:, 4]).max() < 1e-4


def test_every_model_answers_or_says_what_it_cannot(model, data):
    effects = samslib.average_effects(model, data, ["B", "A+B"], particles=6)
    assert effects.shape == (2, 12) and np.isfinite(effects.X).all() and (effects.X != 0).any()
    again = samslib.average_effects(model, data, ["B", "A+B"], particles=6)
    np.testing.assert_array_equal(effects.X, again.X)
    assert set(samslib.latents(model, data, particles=2)) >= set(model.exogenous)
    if model.exogenous:
        assert samslib.counterfactual(model, data, "B", particles=2).shape == data.shape
    else:
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no exogenous latents.*average_effects"):
            samslib.counterfactual(model, data, "B", particles=2)
        with pytest.raises(ValueError, match="use average_effects"):
            samslib.counterfactual_cells(model, data, "B")


def test_effects_of_svae_plus_find_the_gene_of_the_perturbation():
    """Its embedding is a parameter, read by the rows of the perturbations asked for, whatever their order."""
    data = make_data(cells=300).encode_unique()
    torch.manual_seed(0)
    model = samslib.SVAEPlus(data.summary(), **SMALL)
    samslib.fit(model, data, None, samslib.FitConfig(steps=400, learning_rate=0.01, progress=False))
    table = samslib.average_effects(model, data, ["B", "A"], particles=2000).to_df()
    assert table.loc["A"].idxmax() == "gene0" and table.loc["A", "gene0"] > 3 * abs(table.loc["B", "gene0"])


def test_effects_of_the_conditional_vae_find_the_doubled_genes():
    data = make_data(cells=300)
    torch.manual_seed(0)
    model = samslib.ConditionalVAE(data.summary(), **SMALL)
    samslib.fit(model, data, None, samslib.FitConfig(steps=400, learning_rate=0.01, progress=False))
    table = samslib.average_effects(model, data, ["B", "A"], particles=2000).to_df()
    assert table.loc["A"].idxmax() == "gene0" and table.loc["B"].idxmax() == "gene1"


def test_latents_are_posterior_means_a_row_a_cell(trained):
    model, data = trained
    z = samslib.latents(model, data)["z_basal"]
    assert z.shape == (len(data), 3) and np.isfinite(z).all()
    np.testing.assert_allclose(z[:7], samslib.latents(model, data[:7])["z_basal"], atol=1e-5)


def test_every_key_has_a_random_stream_of_its_own():
    """The shared latents of a block and the cells of its first tile would otherwise be one and the same noise."""
    drawn = {}
    for key in ((0,), (0, 0), (0, 0, 0), (0, 1), (0, 1, 0), (1, 0), (1, 0, 0, 0)):
        reseed(*key)
        drawn[key] = torch.rand(1).item()
    assert len(set(drawn.values())) == len(drawn)
    reseed(0, 1)
    assert torch.rand(1).item() == drawn[0, 1]
