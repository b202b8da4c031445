from __future__ import annotations

import itertools
import re
import signal
import warnings
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, LinearGaussian, make_data
from torch import nn

import samslib
from samslib import FitConfig, Schedule, checkpoint, fit, fit_many, training
from samslib.data.batches import STRETCH, Batches, Order, step_seed
from samslib.distributions import Poisson

QUICK = {"batch_size": 32, "progress": False, "learning_rate": 0.01}
quick = FitConfig.paper  # constant rates, so that a run may be taken up with more steps


def new_model(data, **options):
    torch.manual_seed(3)
    return samslib.SAMSVAE.paper(data.summary(), **SMALL, **options)


@pytest.fixture
def split(data):
    return data[:60], data[60:]


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_history_has_every_term_by_name(split):
    model = new_model(split[0])
    history = fit(model, *split, quick(steps=12, validate_every=4, **QUICK), monitor=lambda m: {"answer": 42.0})
    assert isinstance(history, pd.DataFrame) and list(history.index) == [4, 8, 12]
    terms = ["loss", "x", "z_basal", "M", "E"]
    assert set(history) >= {*terms, "val_loss", "val_x", "val_z_basal", "epoch", "seconds", "answer"}
    np.testing.assert_allclose(history["loss"], -history[terms[1:]].sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], -history[["val_x", "val_z_basal"]].sum(axis=1), rtol=1e-5)
    assert not history.attrs["interrupted"] and history.attrs["best_step"] in history.index


def test_a_step_on_its_own_is_that_of_fit(split):
    a, b = new_cpa(split[0]), new_cpa(split[0])
    config = quick(steps=4, kl_warmup=2, critic=Schedule(steps=2, pretrain=2), **QUICK)
    fit(a, split[0], None, config)
    counts = training.shared_counts(split[0], torch.device("cpu"), torch.float32)
    step, batches = training.TrainingStep(b, config, counts), Batches(split[0], 32, seed=0)
    seen = []
    for i in range(4):
        torch.manual_seed(step_seed(0, i))
        seen.append(set(step(batches(i, torch.float32), i)))
    assert same_weights(a, b)
    model = {"loss", "x", "z_basal", "E", "adversary"}
    assert seen == [model | {"critic"}, model | {"critic"}, model, {"critic"}]


def test_training_learns(split):
    model = new_model(split[0])
    before = training.validate(model, split[1], 20)["val_loss"]
    fit(model, *split, quick(epochs=60, **QUICK))
    assert training.validate(model, split[1], 20)["val_loss"] < before - 5


@pytest.mark.parametrize("stop", [1, 5, 7, 12])
def test_stopped_and_resumed_is_bit_for_bit_the_run_that_was_not(split, tmp_path, stop):
    whole = new_model(split[0])
    rows = fit(whole, *split, quick(steps=14, validate_every=4, **QUICK))
    folder = tmp_path / str(stop)
    fit(new_model(split[0]), *split, quick(steps=stop, validate_every=4, checkpoints=folder, **QUICK))
    torch.manual_seed(99)  # whatever the caller's random stream does in between
    again = samslib.SAMSVAE.paper(split[0].summary(), **SMALL)
    resumed = fit(again, *split, quick(steps=14, validate_every=4, checkpoints=folder, **QUICK))
    assert same_weights(whole, again)
    pd.testing.assert_frame_equal(rows.drop(columns="seconds"), resumed.drop(columns="seconds"), check_exact=True)


def test_a_resumed_run_still_has_its_best_weights_and_its_time(split, tmp_path, monkeypatch):
    """A rate so high that the second validation of four stays the best; a clock that ticks at each look."""
    clock = itertools.count()
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: float(next(clock)))
    settings = {"validate_every": 2, **QUICK, "learning_rate": 0.1}
    whole, again = new_model(split[0]), new_model(split[0])
    assert fit(whole, *split, quick(steps=8, **settings)).attrs["best_step"] == 4, "the case needs it"
    fit(new_model(split[0]), *split, quick(steps=6, checkpoints=tmp_path, **settings))
    history = fit(again, *split, quick(steps=8, checkpoints=tmp_path, **settings))
    assert history.attrs["best_step"] == 4 and same_weights(whole, again)
    assert history["seconds"].is_monotonic_increasing and history["seconds"].iloc[0] > 0


@pytest.fixture
def sigint():
    """Sets what an interrupt does, at first what it does in Python, whatever the shell that runs the tests set; and
    puts that back."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def interrupt(model, times=1):
    """A monitor that presses Ctrl-C."""
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)
    return {}


def interrupt_at(validation):
    """A monitor that presses Ctrl-C at the n-th validation."""
    seen = []

    def monitor(model):
        seen.append(model)
        return interrupt(model) if len(seen) == validation else {}

    return monitor


def test_ctrl_c_returns_what_there_is_and_resumes(split, tmp_path, sigint):
    config = quick(steps=20, validate_every=8, checkpoints=tmp_path, **QUICK)
    stopped = new_model(split[0])
    history = fit(stopped, *split, config, monitor=interrupt)
    assert history.attrs["interrupted"] and list(history.index) == [8]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole, again = new_model(split[0]), new_model(split[0])
    fit(whole, *split, quick(steps=20, validate_every=8, **QUICK))
    fit(again, *split, config)
    assert same_weights(whole, again)


def seeded_model(data):
    return lambda seed: samslib.SAMSVAE.paper(data.summary(), **SMALL, seed=seed)


def test_an_ensemble_is_a_fit_for_each_seed(split):
    config = quick(steps=4, **QUICK)
    models, histories = fit_many(seeded_model(split[0]), *split, config, seeds=(5, 7))
    assert [history.attrs["config"]["seed"] for history in histories] == [5, 7]
    alone = seeded_model(split[0])(7)
    fit(alone, *split, replace(config, seed=7))
    assert same_weights(models[1], alone) and not same_weights(*models)


def test_an_interrupted_ensemble_goes_on_where_it_ended(split, tmp_path, sigint, monkeypatch):
    """Ctrl-C at the third validation of all, the first of the second model: the third is not begun."""
    config = quick(steps=8, validate_every=4, checkpoints=tmp_path, **QUICK)
    monitor = interrupt_at(3)
    monkeypatch.setattr(training, "fit", lambda *arguments: fit(*arguments, monitor=monitor))
    models, histories = fit_many(seeded_model(split[0]), *split, config)
    assert [history.attrs["interrupted"] for history in histories] == [False, True] and len(models) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed-0", "seed-1"]
    again, _ = fit_many(seeded_model(split[0]), *split, config)
    whole, _ = fit_many(seeded_model(split[0]), *split, replace(config, checkpoints=None))
    assert len(again) == 3 and all(map(same_weights, again, whole))


def test_an_ensemble_that_is_none_is_refused(split):
    model = new_model(split[0])
    with pytest.raises(ValueError, match="must make a new one at every call"):
        fit_many(lambda seed: model, *split, quick(steps=1, **QUICK))
    for seeds in ((), (1, 1), 3):
        with pytest.raises(ValueError, match="give a list of at least one, and each once"):
            fit_many(seeded_model(split[0]), *split, seeds=seeds)


def test_a_second_ctrl_c_breaks_off(split, sigint):
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(split[0]), *split, quick(steps=4, **QUICK), monitor=lambda model: interrupt(model, 2))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_interrupts_are_ignored_they_stay_so(split, sigint):
    """As in a job that a script started in the background, which a Ctrl-C meant for another must not end."""
    sigint(signal.SIG_IGN)
    history = fit(new_model(split[0]), *split, quick(steps=4, validate_every=2, **QUICK), monitor=interrupt)
    assert list(history.index) == [2, 4] and not history.attrs["interrupted"]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_handler_that_is_not_pythons_is_left_in_place(split, sigint, monkeypatch):
    """As in R, whose own one Python knows only as None and could not put back."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    assert list(fit(new_model(split[0]), *split, quick(steps=2, **QUICK)).index) == [2]


def test_the_best_weights_on_validation_are_kept(split):
    seen = {}

    def remember(model):
        seen[len(seen)] = {k: v.clone() for k, v in model.state_dict().items()}
        return {}

    model = new_model(split[0])
    history = fit(
        model,
        *split,
        quick(steps=300, validate_every=20, **QUICK | {"learning_rate": 0.05}),
        monitor=remember,
    )
    best = int(history["val_loss"].to_numpy().argmin())
    assert best < len(history) - 1, "the case needs a run whose last row is not its best"
    assert history.attrs["best_step"] == history.index[best]
    assert all(torch.equal(v, seen[best][k]) for k, v in model.state_dict().items())


def test_seeds_decide_and_the_callers_stream_is_left_alone(split):
    a, b, c = (new_model(split[0]) for _ in range(3))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    fit(a, *split, quick(steps=5, seed=1, **QUICK))
    assert torch.equal(torch.rand(3), expected)
    fit(b, *split, quick(steps=5, seed=1, **QUICK))
    fit(c, *split, quick(steps=5, seed=2, **QUICK))
    assert same_weights(a, b) and not same_weights(a, c)


def test_every_cell_is_seen_once_an_epoch():
    order = Order(50, 16, seed=0)
    epochs = [np.concatenate([order(4 * e + i) for i in range(4)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs) and not np.array_equal(*epochs)


@pytest.fixture
def on_disk(data, tmp_path):
    """The same cells read from a file: training and validation cells in turn, so that neither lies in one piece."""
    adata = ad.AnnData(data.x, obs=pd.DataFrame({"perturbation": data.labels}, index=data.cells.astype(str)))
    adata.var_names = list(data.genes)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    lazy = samslib.PerturbationData.from_anndata(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    return lazy[np.arange(90) % 3 > 0], lazy[::3]


def test_on_disk_with_room_for_all_is_bit_for_bit_in_memory(on_disk):
    a, b = (new_model(on_disk[0]) for _ in range(2))
    fit(a, *(part.to_memory() for part in on_disk), quick(steps=8, **QUICK))
    fit(b, *on_disk, quick(steps=8, **QUICK))
    assert same_weights(a, b)


@pytest.mark.parametrize("stop", [1, 9, 14])
def test_on_disk_stopped_and_resumed_is_bit_for_bit_the_run_that_was_not(on_disk, tmp_path, monkeypatch, stop):
    """Six batches of ten an epoch in windows of two: in the middle of a window, of an epoch, and after two."""
    monkeypatch.setattr("samslib.data.disk.WINDOW", int((on_disk[0].x[:] != 0).sum() * 25 / 60))
    settings = QUICK | {"batch_size": 10, "validate_every": 5}
    whole, again = new_model(on_disk[0]), new_model(on_disk[0])
    fit(whole, *on_disk, quick(steps=16, **settings))
    fit(new_model(on_disk[0]), *on_disk, quick(steps=stop, checkpoints=tmp_path / "run", **settings))
    fit(again, *on_disk, quick(steps=16, checkpoints=tmp_path / "run", **settings))
    assert same_weights(whole, again)


def test_one_window_is_in_memory_at_a_time_and_batches_are_the_rows_asked_for(on_disk, monkeypatch):
    train, memory = on_disk[0], on_disk[0].to_memory()
    monkeypatch.setattr("samslib.data.disk.WINDOW", int((memory.x != 0).sum() * 25 / 60))
    batches, held = Batches(train, 10, seed=0), []
    for step in range(24):
        batch = batches(step, torch.float32)
        assert torch.equal(batch.x, memory.batch(batches.order(step)).x)
        held.append(batches.rows)
    assert {len(rows) for rows in held} == {20} and batches.held.x.shape == (20, 12)
    reads = 1 + sum(not np.array_equal(a, b) for a, b in zip(held, held[1:], strict=False))
    assert reads <= 12, "each window is read once"


def test_windows_hold_every_cell_once_an_epoch_and_anew_in_each():
    n, size, window = 1003, 20, 250
    order = Order(n, size, 0, window)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * 51, (epoch + 1) * 51)
        batches = [order(step) for step in steps]
        assert sorted(np.concatenate(batches)) == list(range(n)) and [len(b) for b in batches] == [20] * 50 + [3]
        for step, rows in zip(steps, batches, strict=True):
            assert set(rows) <= set(order.around(step)) and len(order.around(step)) in (240, 43)
        epochs.append([set(order.around(step)) for step in steps[::12]])
    assert not any(a == b for a in epochs[0] for b in epochs[1])
    assert np.array_equal(Order(n, size, 0, window)(60), order(60))
    assert not np.array_equal(Order(n, size, 1, window)(60), order(60))
    whole = Order(n, size, 0)
    assert all(np.array_equal(Order(n, size, 0, n)(step), whole(step)) for step in (0, 60))


def test_windows_mix_what_is_far_apart_and_part_what_is_near():
    """20,000 rows in windows of 4,000: pairs of a batch within a stretch are no more than twice (STRETCH - 1) / 4,000,
    where those of unshuffled rows are 6%; and the mean position of each window is that of all rows within 5 standard
    errors of drawing 250 stretches (1 in 300,000 a window)."""
    n, size, window = 20_000, 500, 4_000
    order = Order(n, size, 0, window)
    near = []
    for step in range(n // size):
        gaps = np.abs(np.subtract.outer(*[order(step)] * 2))[np.triu_indices(size, 1)]
        near.append((gaps < STRETCH).mean())
    assert np.mean(near) < 2 * (STRETCH - 1) / window
    error = n / np.sqrt(12) / np.sqrt(window / STRETCH)
    means = [order.around(step).mean() for step in range(0, n // size, window // size)]
    assert len(set(means)) == 5 and np.abs(np.array(means) - n / 2).max() < 5 * error


def test_clip_iwelbo_and_published_validation(split):
    small = new_model(split[0])
    start = {k: v.clone() for k, v in small.state_dict().items()}
    fit(small, split[0], None, quick(steps=1, clip=1e-12, weight_decay=0.0, **QUICK))
    moved = max((v - start[k]).abs().max() for k, v in small.state_dict().items())
    assert moved < 3e-4  # Adam's first step is as long as its rate unless gradients drown in its epsilon
    a = fit(new_model(split[0]), *split, quick(steps=4, validation="as_published", **QUICK))
    assert "val_E" in a
    b = fit(new_model(split[0]), *split, quick(steps=4, objective="iwelbo", **QUICK))
    assert (b["loss"] < -b[["x", "z_basal", "M", "E"]].sum(axis=1)).all()


def test_weight_decay_and_rates_reach_their_own_parameters(split):
    """Adam's first step is as long as the rate, and against the sign of each weight where its decay rules the
    gradient."""
    model = new_cpa(split[0])
    start = {k: v.clone() for k, v in model.named_parameters()}
    rates = {"learning_rate": 0.01, "table_rate": 0.03, "critic": Schedule(rate=0.002), "weight_decay": 1e9}
    fit(model, split[0], None, quick(steps=1, batch_size=60, progress=False, **rates))
    for name, value in model.named_parameters():
        in_network = name.startswith("decoder.") or isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear)
        rate = 0.002 if name.startswith("critic") else 0.01 if in_network else 0.03
        ruled = start[name] != 0
        moved = (value - start[name])[ruled]
        torch.testing.assert_close(moved, -rate * start[name][ruled].sign(), atol=1e-5, rtol=0)


def test_validation_has_the_same_noise_each_time_and_is_no_training(split):
    model, modes = new_model(split[0]), []
    model.encoder.register_forward_hook(lambda *_: modes.append(model.training))
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(training.validate(model, split[1], 3)["val_loss"])
    assert losses[0] == losses[1] and not any(modes) and model.training


def test_settings_for_data_have_their_length_written_out_and_say_it(split):
    train, _ = split[:2]
    config = FitConfig.for_data(train, batch_size=1)
    epoch = len(train)
    assert config == FitConfig(
        batch_size=1, steps=min(max(100 * epoch, 1_500), 10_000), validate_every=config.validate_every
    )
    assert config.length(epoch) == FitConfig(batch_size=1).length(epoch)
    assert FitConfig.for_data(train, epochs=3, batch_size=1).steps == 3 * epoch
    said = FitConfig(epochs=20, batch_size=100).words(1000)
    assert said == (
        "200 steps of 100 cells, 20 passes over 1,000 training cells, validated every 10 steps; "
        "rates fall over the last 33%."
    )
    assert "rates" not in FitConfig(steps=10, decay=0).words(1000)
    with pytest.raises(ValueError, match="cells is 0; it must be 1 or above"):
        FitConfig().words(0)
    with pytest.raises(ValueError, match=r"FitConfig\.for_data"):
        FitConfig.for_data(len(train))


def test_lengths_that_are_not_asked_for(split, sigint):
    """Validation once an epoch, here of one step, but at most a hundred times; each run is stopped at its first."""
    settings = {"batch_size": 60, "progress": False}
    for config, steps, every in [
        (FitConfig(validate_every=1, **settings), 1_500, 1),
        (FitConfig(validate_every=1, **settings | {"batch_size": 2}), 3_000, 1),
        (FitConfig(validate_every=1, **settings | {"batch_size": 1}), 6_000, 1),
        (FitConfig.paper(validate_every=1, **settings), 30_000, 1),
        (quick(steps=50, **settings), 50, 1),
        (quick(steps=450, **settings), 450, 5),
        (quick(epochs=7, validate_every=1, **settings | {"batch_size": 32}), 14, 1),
    ]:
        used = fit(new_model(split[0]), split[0], None, config, monitor=interrupt).attrs["config"]
        assert (used["steps"], used["validate_every"]) == (steps, every)


def test_training_and_published_validation_each_charge_their_own_counts(data):
    """The prior of a mask's probability at its one value, log Beta(p; 1, 5), is known without drawing: all of it is
    charged once to the training cells, and once to the validation cells, of which there are half as many."""
    train, val = data[np.arange(90) // 5 % 3 > 0], data[np.arange(90) // 5 % 3 == 0]
    torch.manual_seed(3)
    model = samslib.BetaBernoulliSAMSVAE(train.summary(), **SMALL)
    prior = lambda: torch.distributions.Beta(1.0, 5.0).log_prob(model.mask_logits.sigmoid()).sum().item()  # noqa: E731
    settings = {"validation": "as_published", "keep": "last", **QUICK, "batch_size": len(train)}
    first = prior()
    row = fit(model, train, val, quick(steps=1, **settings)).iloc[0]
    assert row["pi"] == pytest.approx(first / len(train), rel=1e-4)
    assert row["val_pi"] == pytest.approx(prior() / len(val), rel=1e-4) and first != prior()


def test_analytic_terms_are_asked_for_and_no_other_changes(split):
    rows = [fit(new_model(split[0]), split[0], None, quick(steps=1, analytic_kl=a, **QUICK)) for a in (False, True)]
    sampled, analytic = (history.iloc[0] for history in rows)
    assert sampled["x"] == analytic["x"]
    assert (sampled[["z_basal", "M", "E"]] != analytic[["z_basal", "M", "E"]]).all()


def test_warm_up_weighs_all_but_the_likelihood(split):
    """Step s of four weighs by s / 4; the columns of the terms stay as they are."""
    settings = {"validate_every": 1, "analytic_kl": True, **QUICK}
    warm = fit(new_model(split[0]), split[0], None, quick(steps=6, kl_warmup=4, **settings))
    rest = warm[["z_basal", "M", "E"]].sum(axis=1)
    weight = np.array([0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(warm["loss"], -(warm["x"] + weight * rest), rtol=1e-5)


def test_real_values_train_with_a_normal_likelihood(data):
    import anndata

    adata = anndata.AnnData(np.random.default_rng(0).normal(size=(40, 6)).astype("float32"))
    adata.obs["perturbation"] = ["a", "b"] * 20
    real = samslib.PerturbationData.from_anndata(adata, control=None, counts=False)
    model = samslib.SAMSVAE.paper(real.summary(), **SMALL, likelihood="normal_fixed_variance", normalization="raw")
    assert np.isfinite(fit(model, real, None, quick(steps=3, **QUICK))["loss"]).all()
    with pytest.raises(ValueError, match="real-valued.*normal"):
        fit(samslib.SAMSVAE.paper(real.summary(), **SMALL, normalization=None), real, None, quick(steps=3, **QUICK))

    class Rates(LinearGaussian):
        """One law, of counts, and so no option that names it."""

        def generate(self, t, c):
            return Poisson(super().generate(t, c).mean.exp())

    with pytest.raises(ValueError, match=r"real-valued, but the likelihood is of counts \(Poisson\)"):
        fit(Rates(real.summary()), real, None, quick(steps=3, **QUICK))
    assert np.isfinite(fit(LinearGaussian(real.summary()), real, None, quick(steps=3, **QUICK))["loss"]).all()


def test_bad_settings_and_data_are_refused(split, tmp_path):
    for settings, message in [
        ({"steps": 5, "epochs": 2}, "not both"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"objective": "map"}, "objective is 'map'"),
        ({"validation": "none"}, "validation is 'none'"),
        ({"kl_warmup": -1}, "kl_warmup is -1"),
        ({"analytic_kl": True, "objective": "iwelbo"}, "analytic_kl needs objective='elbo'"),
    ]:
        with pytest.raises(ValueError, match=message):
            quick(**settings)
    model = new_model(split[0])
    with pytest.raises(ValueError, match="lack 7 of the model's 12 genes"):
        fit(model, make_data(genes=5), None, quick(steps=1, **QUICK))
    with pytest.raises(ValueError, match="validation is 'as_published', but there are no cells to validate on"):
        fit(model, split[0], None, quick(steps=1, validation="as_published", **QUICK))
    with pytest.raises(ValueError, match="cannot be used here"):
        fit(model, *split, quick(steps=1, device="cuda:7", **QUICK))
    fit(model, *split, quick(steps=2, checkpoints=tmp_path, **QUICK))
    with pytest.raises(ValueError, match="differs in config"):
        fit(model, *split, quick(steps=2, seed=5, checkpoints=tmp_path, **QUICK))
    with pytest.raises(ValueError, match="differs in options"):
        fit(new_model(split[0], mask_prior=0.3), *split, quick(steps=2, checkpoints=tmp_path, **QUICK))


def test_a_loss_that_breaks_is_said_and_the_best_weights_come_back(split):
    model = new_model(split[0])
    with pytest.raises(FloatingPointError, match="not finite at step.*learning_rate"):
        fit(model, *split, quick(steps=60, validate_every=2, **QUICK | {"learning_rate": 1e18}))


def test_when_a_loss_breaks_late_the_weights_are_the_best_so_far(split):
    """Of the second of three validations; the third is worse, and then a weight is lost."""
    states = []

    def poison(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        if len(states) == 3:
            torch.nn.init.constant_(model.mask_logits, float("nan"))
        return {}

    model = new_model(split[0])
    config = quick(steps=20, validate_every=2, **QUICK | {"learning_rate": 0.1})
    with pytest.raises(FloatingPointError, match="at step 8; .*those of step 4, the best so far"):
        fit(model, *split, config, monitor=poison)
    assert all(torch.equal(v, states[1][k]) for k, v in model.state_dict().items())


def test_a_folder_holds_one_run_of_one_data_set_and_of_any_length(split, tmp_path):
    model = new_model(split[0])
    fit(model, *split, quick(steps=2, checkpoints=tmp_path, **QUICK))
    assert list(fit(model, *split, quick(steps=4, checkpoints=tmp_path, **QUICK)).index) == [2, 4]
    for other in ((split[0][::-1], split[1]), (split[0], split[1][:29])):
        with pytest.raises(ValueError, match="differs in"):
            fit(model, *other, quick(steps=4, checkpoints=tmp_path, **QUICK))


def test_a_folder_that_cannot_be_written_is_found_out_at_once(split, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file/runs.* cannot be written .*; choose a folder"):
        fit(new_model(split[0]), *split, quick(steps=2, checkpoints=tmp_path / "file" / "runs", **QUICK))


def test_a_disk_that_fills_up_does_not_cost_the_training(split, tmp_path, monkeypatch):
    written, save_file = [], checkpoint.save_file

    def fills_up(*arguments, **options):
        written.append(1)
        if len(written) > 1:
            raise OSError(28, "No space left on device")
        save_file(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save_file", fills_up)
    with pytest.warns(UserWarning, match="goes on, but step 4 was not saved.*No space left"):
        history = fit(new_model(split[0]), *split, quick(steps=8, validate_every=4, checkpoints=tmp_path, **QUICK))
    assert list(history.index) == [4, 8] and (tmp_path / "training.safetensors").exists()


# --- a model with a critic ----------------------------------------------------------------------------------

SCHEDULES = {
    "alternating": {"critic": Schedule(steps=3, rate=0.02)},
    "pre-training": {"critic": Schedule(pretrain=3, warm_up=6), "clip": 5.0},
    "both": {"critic": Schedule(pretrain=3, warm_up=6, steps=2)},
}


def new_cpa(data, **options):
    torch.manual_seed(3)
    return samslib.CPA(data.summary(), **SMALL, adversary_width=8, **options)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("stop", [1, 5, 8])
def test_with_a_critic_too_resuming_is_bit_for_bit(split, tmp_path, schedule, stop):
    settings = {"validate_every": 4, **SCHEDULES[schedule], **QUICK}
    whole, again = new_cpa(split[0]), new_cpa(split[0])
    rows = fit(whole, *split, quick(steps=14, **settings))
    fit(new_cpa(split[0]), *split, quick(steps=stop, checkpoints=tmp_path, **settings))
    resumed = fit(again, *split, quick(steps=14, checkpoints=tmp_path, **settings))
    assert same_weights(whole, again)
    pd.testing.assert_frame_equal(rows.drop(columns="seconds"), resumed.drop(columns="seconds"), check_exact=True)


def test_alternating_steps_move_one_part_at_a_time(split):
    """With a schedule of 3 steps: the model moves at steps 0 and 3, the critic at 1, 2, 4 and 5."""
    model, moved = new_cpa(split[0]), []
    last = {k: v.clone() for k, v in model.state_dict().items()}

    def compare(m):
        now = {k: v.clone() for k, v in m.state_dict().items()}
        changed = {k.split(".")[0] for k in now if not torch.equal(now[k], last[k])}
        moved.append("both" if {"critic", "encoder"} <= changed else "critic" if "critic" in changed else "model")
        last.update(now)
        return {}

    settings = {"steps": 6, "validate_every": 1, **QUICK}
    history = fit(model, *split, quick(critic=Schedule(steps=3), **settings), monitor=compare)
    assert moved == ["model", "critic", "critic", "model", "critic", "critic"]
    assert list(history["loss"].notna()) == [True, False, False, True, False, False]
    assert list(history["critic"].notna()) == [False, True, True, False, True, True]
    moved.clear()
    fit(new_cpa(split[0]), *split, quick(critic=Schedule(steps=3, pretrain=2), **settings), compare)
    assert moved == ["both", "both", "critic", "model", "critic", "critic"]


def test_the_penalty_is_off_in_pre_training_and_then_warms_up(split):
    config = quick(steps=8, validate_every=1, critic=Schedule(pretrain=2, warm_up=4), **QUICK)
    rows = fit(new_cpa(split[0]), split[0], None, config)
    weight = (rows["loss"] + rows[["x", "z_basal", "E"]].sum(axis=1)) / rows["adversary"]
    np.testing.assert_allclose(weight, [0, 0, 0, 0.25, 0.5, 0.75, 1, 1], atol=1e-4)
    assert fit(new_cpa(split[0]), *split, config).attrs["best_step"] >= 6
    rows = fit(new_cpa(split[0]), split[0], None, quick(steps=3, validate_every=1, kl_warmup=2, **QUICK))
    warm = np.array([0, 0.5, 1])
    expected = -rows["x"] + warm * (rows["adversary"] - rows[["z_basal", "E"]].sum(axis=1))
    np.testing.assert_allclose(rows["loss"], expected, rtol=1e-5)


def test_a_critic_asked_for_where_there_is_none_is_refused(split):
    with pytest.raises(ValueError, match="SAMSVAE has no critic, so the option critic would do nothing"):
        fit(new_model(split[0]), *split, quick(steps=1, critic=Schedule(), **QUICK))
    for name, value in [("steps", 1), ("rate", 0.0), ("pretrain", -1), ("warm_up", -1)]:
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Schedule(**{name: value})


def test_settings_may_be_numpy_scalars_and_whole_floats(split, tmp_path):
    """They come from tables and parameter files; what is not a number is refused where it was written."""
    config = FitConfig(
        steps=np.int64(2), batch_size=np.float64(32), learning_rate=np.float32(0.01), seed=np.int32(1),
        progress=False, checkpoints=tmp_path,
    )  # fmt: skip
    assert config == FitConfig(2, None, 32, float(np.float32(0.01)), seed=1, progress=False, checkpoints=tmp_path)
    fit(new_model(split[0]), *split, config)
    assert quick(steps=3e3).steps == 3000
    for settings, message in [
        ({"steps": 2.5}, "steps is 2.5; it must be a whole number"),
        ({"batch_size": None}, "batch_size is None; it must be a finite number"),
        ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'; it must be a finite number"),
        ({"seed": -1}, "seed is -1; it must be 0 or above"),
    ]:
        with pytest.raises(ValueError, match=message):
            quick(**settings)


# --- the data as a model takes them -------------------------------------------------------------------------


def test_data_are_prepared_by_what_a_class_says():
    data = make_data()
    assert training.prepare(samslib.SAMSVAE, data) is data
    unique = training.prepare(samslib.SVAEPlus, data)
    assert unique.perturbations == ("A", "A+B", "B", "C")
    flagged = training.prepare(samslib.CRADLEVAE, data)
    assert flagged.quality == ("fails",) and not flagged.qc.any() and flagged.perturbations == data.perturbations
    own = make_data(quality=True)
    assert training.prepare(samslib.CRADLEVAE, own) is own


def test_rates_fall_at_the_end_and_tables_have_their_own(split):
    """Constant for two thirds, then linear to zero; tables ten times as fast as networks."""
    step = training.TrainingStep(new_model(split[0]), FitConfig(learning_rate=0.01), {})
    rates = {}
    for progress in (0.0, 0.6, 5 / 6, 1.0):
        step.advance(progress)
        rates[progress] = [group["lr"] for group in step.optimizers[0].param_groups]
    assert rates == {0.0: [0.01, 0.1], 0.6: [0.01, 0.1], 5 / 6: pytest.approx([0.005, 0.05]), 1.0: [0.0, 0.0]}
    tables = {id(p) for p in step.optimizers[0].param_groups[1]["params"]}
    assert {name for name, p in step.model.named_parameters() if id(p) in tables} == {"mask_logits"}


def test_a_run_whose_rates_depend_on_its_length_is_taken_up_at_that_length_only(split, tmp_path, sigint):
    settings = {**QUICK, "decay": 0.5, "validate_every": 2}
    whole = fit(new_model(split[0]), *split, FitConfig(steps=8, **settings))
    again = new_model(split[0])
    fit(again, *split, FitConfig(steps=8, checkpoints=tmp_path, **settings), monitor=interrupt_at(2))
    with pytest.raises(ValueError, match="differs in config"):
        fit(new_model(split[0]), *split, FitConfig(steps=10, checkpoints=tmp_path, **settings))
    resumed = fit(new_model(split[0]), *split, FitConfig(steps=8, checkpoints=tmp_path, **settings))
    assert list(resumed["val_loss"]) == list(whole["val_loss"])


@pytest.mark.parametrize("stop", [2, 5, 6, 7])
def test_a_staged_run_is_taken_up_bit_for_bit_before_and_after_it_turns(split, tmp_path, sigint, stop):
    settings = {**QUICK, "steps": 10, "validate_every": 1}
    whole, again = (samslib.SAMSVAE(split[0].summary(), **SMALL, seed=0) for _ in range(2))
    fit(whole, *split, FitConfig(**settings))
    stopped = fit(again, *split, FitConfig(checkpoints=tmp_path, **settings), monitor=interrupt_at(stop))
    assert stopped.index[-1] == stop
    again = samslib.SAMSVAE(split[0].summary(), **SMALL, seed=0)
    fit(again, *split, FitConfig(checkpoints=tmp_path, **settings))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.fixture
def strong():
    """Three hundred cells, whose perturbations quadruple a gene each; for training and for validation."""
    data = make_data(cells=300)
    return data[:200], data[200:]


def test_a_history_says_in_a_sentence_whether_the_model_is_trained(strong):
    """Three verdicts of three trainings of one model: too short, too slow, and long enough."""
    for settings, said in [
        (
            {"steps": 1, "learning_rate": 1e-6},
            r"Worse than the mean of control cells \(-\d+.\d\d nats a cell\)",
        ),
        (
            {"steps": 60, "learning_rate": 3e-3, "validate_every": 2},
            "Perhaps not trained to its end: .* still rose; try more steps",
        ),
    ]:
        with pytest.warns(UserWarning, match=said):
            fit(new_model(strong[0]), *strong, FitConfig(**settings, progress=False, batch_size=64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = FitConfig(steps=1500, learning_rate=0.01, progress=False, batch_size=64)
        history = fit(new_model(strong[0]), *strong, enough)
    said = r"Trained: best at step \d+ of 1500, with a bound of -\d+\.\d\d nats a cell\."
    assert re.fullmatch(said, history.verdict())
    nobody = fit(new_model(strong[0]), strong[0], None, FitConfig(steps=2, progress=False))
    assert "give val" in nobody.verdict()


@pytest.mark.parametrize("settles, rises, said", [
    (0.0, (500, 666), "Perhaps not trained"),
    (0.5, (500, 1000), "Trained"),  # it recovers from its turn
    (0.5, (0, 500), "Perhaps not trained"),
    (0.0, (0, 400), "Trained"),
])  # fmt: skip
def test_a_bound_that_recovers_from_a_turn_is_not_one_that_still_rises(settles, rises, said):
    steps = np.arange(10, 1001, 10)
    history = samslib.History({"val_loss": 100 - 0.02 * np.clip(steps, *rises)}, index=pd.Index(steps, name="step"))
    history.attrs = {"best_step": 1000, "interrupted": False, "control_mean": None, "settles": settles}
    history.attrs["config"] = {"steps": 1000, "decay": 1 / 3, "patience": None}
    assert history.verdict().startswith(said)


def test_the_control_mean_of_a_history_is_that_of_the_baseline(strong):
    history = fit(new_model(strong[0]), *strong, quick(steps=1, **QUICK))
    model = samslib.BASELINES["control_mean"](strong[0].summary(pseudobulk=True))
    expected = samslib.held_out_iwelbo(model, strong[1], particles=1)["iwelbo"].mean()
    assert history.attrs["control_mean"] == pytest.approx(expected, rel=1e-5)
    real = replace(strong[0], counts=False)
    normal = samslib.SAMSVAE.paper(real.summary(), **SMALL, likelihood="normal", normalization="raw")
    assert fit(normal, real, real, quick(steps=1, **QUICK)).attrs["control_mean"] is None


def test_patience_ends_a_training_that_no_longer_gains(strong, tmp_path, sigint):
    """At a rate that overshoots, two validations without a better bound end the training; stopped in between and taken
    up, it ends at the same step with the same weights."""
    settings = {"steps": 400, "validate_every": 10, "batch_size": 64, "progress": False, "learning_rate": 0.1}
    whole, again = new_model(strong[0]), new_model(strong[0])
    history = fit(whole, *strong, quick(patience=2, **settings))
    best, last = history.attrs["best_step"], history.index[-1]
    assert last == best + 20 < 400 and history["val_loss"].idxmin() == best
    assert f"ended at step {last}, after 2 validations without a better one" in history.verdict()
    fit(again, *strong, quick(patience=2, checkpoints=tmp_path, **settings), monitor=interrupt_at(2))
    again = new_model(strong[0])
    taken_up = fit(again, *strong, quick(patience=2, checkpoints=tmp_path, **settings))
    assert taken_up.index[-1] == last and same_weights(whole, again)


def test_optimisers_start_anew_when_a_model_turns_and_at_no_other_time(split):
    model = samslib.SAMSVAE(split[0].summary(), **SMALL, seed=0)
    counts = training.shared_counts(split[0], torch.device("cpu"), torch.float32)
    step, moved = training.TrainingStep(model, FitConfig(), counts), []
    for progress in (0.0, 0.49, 0.5, 0.51):
        step.advance(progress)
        moved.append(len(step.optimizers[0].state) > 0)
        step(split[0].batch())
    assert moved == [False, True, False, True]
