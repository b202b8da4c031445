"""`fit`: the one training loop, for every model."""

from __future__ import annotations

import math
import signal
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from samslib.alignment import align
from samslib.cells import Batch, Plate
from samslib.checkpoint import TrainingState
from samslib.data.batches import Batches, step_seed
from samslib.data.container import PerturbationData, check_data
from samslib.data.disk import OnDisk
from samslib.model import Adversarial, Model
from samslib.models.baselines import ControlMean
from samslib.objective import elbo, iwelbo, log_weights, posterior, present
from samslib.progress import Progress
from samslib.sparsity import numbers
from samslib.trace import Trace
from samslib.validation import above, choose, choose_device, number, require, share, whole

Monitor = Callable[[Model], dict[str, float]]
Counts = dict[Plate, Tensor]  # n_t of each shared plate

VALIDATION_SEED = 2**40  # far from every training step's seed, and the same at each validation: its noise is shared


@dataclass(frozen=True)
class Schedule:
    """When a model's critic learns, and how much the model is trained to mislead it (see `samslib.model.Adversarial`).

    Parameters
    ----------
    steps
        None: model and critic both learn at every step, first the model. With k, the model learns at one of k
        steps and the critic at the k - 1 others.
    rate
        Learning rate of the critic's own Adam; None means that of the model.
    pretrain
        Number of steps at the start at which both learn and the model's `penalty` has weight 0.
    warm_up
        Number of steps after these over which the weight of the penalty rises linearly from 0 to 1. No weights count
        as best until then, for the validation bound does not see the critic.

    Raises
    ------
    ValueError
        For `steps` below 2, a rate that is not positive, or a negative number of steps.
    """

    steps: int | None = None
    rate: float | None = None
    pretrain: int = 0
    warm_up: int = 0

    def __post_init__(self) -> None:
        _convert(self, partial(whole, low=2), "steps")
        _convert(self, partial(whole, low=0), "pretrain", "warm_up")
        _convert(self, number, "rate")
        above(0, rate=self.rate)

    def turns(self, step: int) -> tuple[bool, bool]:
        """Whether the model and whether its critic learns at this step, counted from 0."""
        if self.steps is None or step < self.pretrain:
            return True, True
        model = step % self.steps == 0
        return model, not model

    def weight(self, step: int) -> float:
        """The weight of the model's penalty at this step, from 0 to 1."""
        if step < self.pretrain:
            return 0.0
        return min(1.0, (step - self.pretrain) / self.warm_up) if self.warm_up else 1.0


@dataclass(frozen=True)
class FitConfig:
    """How to train. The defaults are ours, and the book's page on differences shows what they gain; `paper` has the
    published settings.

    Parameters
    ----------
    steps, epochs
        Length of the training in gradient steps or in passes over the training cells, not both; by default 100
        passes, but 1,500 steps at least and 10,000 at most.
    batch_size
        Cells a step, reshuffled each epoch; the last batch of an epoch may be smaller. Cells on disk are shuffled in
        windows, not all at once; the book's appendix on performance says how well.
    learning_rate, weight_decay
        Of Adam; the weight decay is an L2 penalty on every parameter, as published.
    table_rate
        Learning rate of the tables, which have rows for perturbations or targets: a row meets few cells, and its
        gradients are those of its own cells alone. None means ten times `learning_rate`.
    decay
        Share of all steps, at their end, over which learning rates fall linearly to zero; 0 keeps them.
    particles
        Draws of the latent variables a step.
    clip
        Largest norm of the gradient; None for no clipping.
    seed
        Of the order of cells and of all draws. A model's own `seed` draws its initial weights.
    validate_every
        Steps between validations; None means once an epoch, at most a hundred times.
    patience
        Validations without a better bound after which training ends early; None for never. They are counted once
        weights may count as best. Rates that fall with the steps (`decay`) may not have fallen by then.
    objective
        "elbo", or "iwelbo", the importance-weighted bound.
    analytic_kl
        Use divergences in closed form where there is one; for the ELBO only. None: wherever they can be used.
    kl_warmup
        Number of steps over which the weight of every term but the likelihood rises linearly from 0 to 1.
    critic
        Schedule of a model that has a critic; None means `Schedule()`. A model without one refuses it.
    validation
        "held_out": shared latents are taken as given, so that models and splits compare. "as_published": their
        divergences count, with the validation split's own n_t.
    keep
        "best": the weights of the best validation are the result; "last": those of the last step.
    device
        "auto" (a CUDA GPU if there is one), "cpu", "cuda", ...
    progress
        Show a progress bar.
    checkpoints
        Folder in which training is saved at every validation, and from which it resumes; None for no saving.

    Raises
    ------
    ValueError
        For a number that is out of range or no number, for an unknown choice, and for settings that exclude each other.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-6
    table_rate: float | None = None
    decay: float = 1 / 3
    particles: int = 2
    clip: float | None = None
    seed: int = 0
    validate_every: int | None = None
    patience: int | None = None
    objective: str = "elbo"
    analytic_kl: bool | None = None
    kl_warmup: int = 0
    critic: Schedule | None = None
    validation: str = "held_out"
    keep: str = "best"
    device: str = "auto"
    progress: bool = True
    checkpoints: str | Path | None = None

    @classmethod
    def paper(cls, **settings: Any) -> FitConfig:
        """The published settings, those of the Norman experiments (Bereket & Karaletsos 2023, appendix).

        Parameters
        ----------
        **settings
            Those that differ from the published ones.
        """
        rate = settings.get("learning_rate", 3e-4)
        published = {"learning_rate": rate, "table_rate": rate, "decay": 0.0, "particles": 5, "analytic_kl": False}
        length = {} if {"steps", "epochs"} & set(settings) else {"steps": 30_000}
        return cls(**{**published, **length, **settings})

    @classmethod
    def for_data(cls, train: PerturbationData, **settings: Any) -> FitConfig:
        """The settings with their length written out, as the rule above gives it for these cells; `words` says it.

        Parameters
        ----------
        train
            Training cells.
        **settings
            Those that differ from the defaults.
        """
        config = cls(**settings)
        _, steps, every = config.length(len(check_data(train, "FitConfig.for_data")))
        return replace(config, steps=steps, epochs=None, validate_every=every)

    def words(self, cells: int) -> str:
        """How long so many training cells are trained on, in a sentence."""
        epoch, steps, every = self.length(whole("cells", cells, 1))
        passes = f"{steps:,} steps of {min(self.batch_size, cells):,} cells, {steps / epoch:.3g} passes over {cells:,}"
        rates = f"; rates fall over the last {self.decay:.0%}" if self.decay else ""
        return f"{passes} training cells, validated every {every} steps{rates}."

    def __post_init__(self) -> None:
        _convert(
            self, partial(whole, low=1), "steps", "epochs", "batch_size", "particles", "validate_every", "patience"
        )
        _convert(self, partial(whole, low=0), "seed", "kl_warmup")
        _convert(self, number, "learning_rate", "table_rate", "clip")
        above(0, learning_rate=self.learning_rate, table_rate=self.table_rate, clip=self.clip)
        _convert(self, partial(number, low=0), "weight_decay", "decay")
        share(decay=self.decay)
        choose("objective", self.objective, ("elbo", "iwelbo"))
        choose("validation", self.validation, ("held_out", "as_published"))
        choose("keep", self.keep, ("best", "last"))
        require(self.steps is None or self.epochs is None, "Give steps or epochs, not both.")
        text = "analytic_kl needs objective='elbo'; an IWELBO weighs draws by their sampled ratios."
        require(self.objective == "elbo" or not self.analytic_kl, text)

    def length(self, cells: int) -> tuple[int, int, int]:
        """Steps in an epoch of so many training cells, steps in all, and steps between validations."""
        epoch = -(-cells // self.batch_size)
        steps = self.steps or (self.epochs * epoch if self.epochs else min(max(100 * epoch, 1_500), 10_000))
        return epoch, steps, self.validate_every or max(epoch, -(-steps // 100))


def _convert(settings: FitConfig | Schedule, to: Callable[[str, Any], float], *names: str) -> None:
    """Check the named settings and make plain Python numbers of them; None stays only where it is the default."""
    for name in names:
        value = getattr(settings, name)
        if value is not None or getattr(type(settings), name) is not None:
            object.__setattr__(settings, name, to(name, value))


class History(pd.DataFrame):
    """What happened in training: one row a validation, indexed by step.

    Columns are epoch, seconds, the training loss and every term of it by name (means since the last row, nats a cell),
    a model's penalties, "val_..." of the bound and its terms on the validation cells, and what a monitor reported.
    `attrs` holds best_step, interrupted, device, seconds, the configuration, the model's `settles`, and control_mean:
    the validation bound, in nats a cell, of a model in which no perturbation does anything (None for real values or
    without controls).
    """

    ENOUGH = 1e-3  # of the bound: what the last quarter of the steps at constant rates may still gain

    def verdict(self) -> str:
        """Whether the model is trained, in a sentence that starts with "Trained" if it is.

        It is not where the validation bound is below that of the mean of control cells, and where the bound still rose,
        by more than a thousandth of itself, between the two halves of the last quarter of the steps before the learning
        rates fell; or before the model settled, if it was trained in stages, for after that the bound has to recover.
        Too few validations for that: where the last was the best. With few cells more steps may also fit the training
        cells too well, so that only a comparison of bounds decides.
        """
        config, best = self.attrs["config"], self.attrs["best_step"]
        if "val_loss" not in self or best not in self.index:
            return "Whether it is trained cannot be told without validation cells that it was kept by; give val."
        bound, control = -self["val_loss"][best], self.attrs["control_mean"]
        end = config["steps"] * (self.attrs["settles"] or 1 - config["decay"])
        stands = f"best at step {best} of {config['steps']}, with a bound of {bound:.2f} nats a cell"
        if control is not None and bound < control:
            return f"Worse than the mean of control cells ({control:.2f} nats a cell): {stands}; train longer or anew."
        last = self["val_loss"][(self.index > 0.75 * end) & (self.index <= end)].to_numpy()
        half = len(last) // 2
        gain = last[:half].mean() - last[-half:].mean() if half > 1 else 0.0
        if self.index[-1] < config["steps"] and not self.attrs["interrupted"]:
            waited = f"{config['patience']} validations without a better one"
            return f"Trained: {stands}; it ended at step {self.index[-1]}, after {waited}."
        if gain > self.ENOUGH * abs(bound) or (half < 2 and best == self.index[-1]):
            return (
                f"Perhaps not trained to its end: {stands}, and it still rose; try more steps and compare the bounds."
            )
        return f"Trained: {stands}."


def prepare(kind: type[Model], data: PerturbationData) -> PerturbationData:
    """The data as models of this class take them, so that one loop trains any of them; to be split afterwards.

    Each combination becomes a perturbation of its own (`encode_unique`) where the class takes no combinations. Where it
    needs a quality flag and the data have none, they get one that every cell passes.

    Parameters
    ----------
    kind
        A class of models.
    data
        All cells, before they are split.
    """
    if not kind.takes_combinations:
        data = data.encode_unique()
    if "quality" in kind.needs and not data.quality:
        data = replace(data, qc=np.zeros((len(data), 1), dtype=np.float32), quality=("fails",))
    return data


class TrainingStep:
    """One step of training, callable on its own: `step(batch)` moves the weights and returns the terms of the loss.

    Parameters
    ----------
    model
        The model, on the device and of the floating-point type that it is trained in.
    config
        Only what concerns a single step is read: rates, particles, objective and the like.
    counts
        n_t of each shared plate (`shared_counts`), on the model's device.
    """

    def __init__(self, model: Model, config: FitConfig, counts: Counts):
        self.model, self.config, self.counts = model, config, counts
        self.schedule = config.critic or Schedule()
        critic = dict(model.critic.named_parameters(prefix="critic")) if isinstance(model, Adversarial) else {}
        rest = {name: parameter for name, parameter in model.named_parameters() if name not in critic}
        rate, tables = config.learning_rate, _tables(rest.keys(), model)
        networks = {"params": [parameter for name, parameter in rest.items() if name not in tables], "lr": rate}
        rows = {"params": [rest[name] for name in tables], "lr": config.table_rate or 10 * rate}
        readers = {"params": list(critic.values()), "lr": self.schedule.rate or rate}
        adam = partial(torch.optim.Adam, weight_decay=config.weight_decay)
        self.optimizers = [adam([networks, rows]), *([adam([readers])] if critic else [])]
        for group in self._groups():
            group["initial_lr"] = group["lr"]

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def advance(self, progress: float) -> None:
        """Bring the model's stage and the learning rates to where training stands.

        Parameters
        ----------
        progress
            Share of all steps that lie behind, from 0 to 1.
        """
        if self.model.advance(progress):
            for optimizer in self.optimizers:
                optimizer.state.clear()
        left = min(1.0, (1 - progress) / self.config.decay) if self.config.decay else 1.0
        for group in self._groups():
            group["lr"] = left * group["initial_lr"]

    def __call__(self, batch: Batch, step: int = 0) -> dict[str, Tensor]:
        """Descend the gradient of the loss of a batch.

        Parameters
        ----------
        batch
            Cells on the model's device, with all T dose columns.
        step
            Position in the training, for the weights that change with it; draws are the global random stream's.

        Returns
        -------
        Scalars by name, in nats a cell: "loss", every term of the bound, the model's penalties, and "critic", as far as
        the step computes them.
        """
        b, active = present(batch)
        learns, criticises = self.schedule.turns(step)
        with torch.set_grad_enabled(learns):
            q = posterior(self.model, b, self.config.particles, active)
        terms = self.loss(b, q, step) if learns else {}
        if learns:
            self._descend(self.optimizers[0], terms["loss"])
        if isinstance(self.model, Adversarial) and criticises:
            terms["critic"] = self.model.critic_loss(b, q)
            self._descend(self.optimizers[1], terms["critic"])
        return {name: value.detach() for name, value in terms.items()}

    def loss(self, b: Batch, q: Trace, step: int = 0) -> dict[str, Tensor]:
        """ "loss", then the unweighted terms that it is made of: those of the bound and the model's penalties.

        Parameters
        ----------
        b, q
            A batch and a pass of the posterior over it.
        step
            Position in the training, for the weights that change with it.
        """
        analytic = self.config.analytic_kl
        analytic = self.config.objective == "elbo" if analytic is None else analytic
        terms = log_weights(self.model, b, q, self.counts, analytic)
        penalty = self.model.penalty(b, q)
        warm = min(1.0, step / self.config.kl_warmup) if self.config.kl_warmup else 1.0
        weighted = {name: warm * value for name, value in terms.items()}
        weighted["x"] = self.model.likelihood_weights(b) * terms["x"]
        bound = iwelbo(weighted) if self.config.objective == "iwelbo" else elbo(weighted)
        loss = -bound.mean() + warm * self.schedule.weight(step) * sum(penalty.values())
        return {"loss": loss, **{name: value.mean() for name, value in terms.items()}, **penalty}

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip:
            every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(every, self.config.clip)
        optimizer.step()


def _tables(names: Iterable[str], model: Model) -> list[str]:
    """Which parameters lie outside of networks: tables with a row a perturbation or target, not those of genes."""
    layers = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    inside = tuple(f"{name}." for name in (*layers, "decoder"))
    return [name for name in names if not name.startswith(inside) and name != "log_concentration"]


def fit(
    model: Model,
    train: PerturbationData,
    val: PerturbationData | None = None,
    config: FitConfig | None = None,
    monitor: Monitor | None = None,
) -> History:
    """Train a model in place and leave it with the weights that were best on `val`.

    Ctrl-C ends training after the step in progress and returns what there is (a second one breaks off at once); where
    the shell has it ignored, as for a job that a script starts in the background, training ignores it too. With
    `config.checkpoints` an earlier run in that folder is resumed: on a CPU the weights are bit for bit those of the run
    that was never stopped, for data order and draws are functions of (seed, step) alone.

    Parameters
    ----------
    model
        Any `samslib.model.Model`; it is moved to the device of the configuration.
    train, val
        Cells to train and to validate on, with the genes and perturbations of the model. Without `val` the last
        weights are kept.
    config
        How to train; None means `FitConfig()`.
    monitor
        Called with the model at each validation; the numbers that it returns become columns of the history.

    Returns
    -------
    The `History`, a row a validation. Its `verdict` is a warning too where the model is not trained.

    Raises
    ------
    DataError
        (A ValueError.) The data are not such as the model was made for (`samslib.align`).
    ValueError
        A setting would do nothing, or the folder of checkpoints holds another run.
    FloatingPointError
        The loss stops being finite; the best weights so far are restored first.
    """
    config = config or FitConfig()
    train, val = align(train, model), None if val is None else align(val, model)
    _check(model, train, val, config)
    epoch, steps, every = config.length(len(train))
    device, dtype = choose_device(config.device), next(model.parameters()).dtype
    step = TrainingStep(model.to(device), config, shared_counts(train, device, dtype, model.summary.pairs))
    state = TrainingState(model, step.optimizers, config.checkpoints, _fingerprint(model, train, val, config, steps))
    state.resume()
    state.save()  # a folder that cannot be written is found out now, not after an hour
    batches = Batches(train, config.batch_size, config.seed)
    bar = Progress(steps, config.progress, state.step)
    with _seeds_restored(device), _deferred_interrupt() as interrupted, bar:
        model.train()
        while state.step < steps and not interrupted and state.waited < (config.patience or math.inf):
            step.advance(state.step / steps)
            torch.manual_seed(step_seed(config.seed, state.step))
            state.count(step(batches(state.step, dtype).to(device), state.step))
            bar.advance()
            if state.step % every == 0:
                bar.note(_log(state, config, epoch, val, monitor))
                state.try_to_save()
        if state.step % every:
            # Before a row that is off the schedule, so that a resumed run never sees it.
            state.try_to_save()
            if not interrupted:
                bar.note(_log(state, config, epoch, val, monitor))
    best = state.restore_best() if config.keep == "best" else state.step
    history = History(pd.DataFrame(state.rows or {"step": []}).set_index("step"))
    history.attrs = {"best_step": best, "seconds": state.seconds, "interrupted": bool(interrupted)}
    history.attrs |= {"device": str(device), "config": asdict(config) | {"steps": steps, "validate_every": every}}
    history.attrs |= {"control_mean": _control_mean(train, val), "settles": model.settles}
    if val and not interrupted and not (verdict := history.verdict()).startswith("Trained"):
        warnings.warn(verdict, stacklevel=2)
    return history


def fit_many(
    make_model: Callable[[int], Model],
    train: PerturbationData,
    val: PerturbationData | None = None,
    config: FitConfig | None = None,
    seeds: Sequence[int] = (0, 1, 2),
) -> tuple[list[Model], list[History]]:
    """Train an ensemble: one model after the other, which differ by their seed alone.

    Initial weights, order of cells and all draws are those of the seed. Ctrl-C ends it as it ends `fit`: the last model
    returned is then trained in part (its history's attrs["interrupted"]) and the others were not begun. With
    `config.checkpoints` each model has the folder "seed-..." in it, so that the same call again goes on where it ended.

    Parameters
    ----------
    make_model
        Makes a new model from a seed, such as `lambda seed: SAMSVAE(summary, seed=seed)`.
    train, val
        Cells to train and to validate on, as in `fit`.
    config
        How to train each of them; its own `seed` is not used. None means `FitConfig()`.
    seeds
        A seed for each model.

    Returns
    -------
    The models and their histories. `samslib.ensemble_effects` takes the mean of what they say.

    Raises
    ------
    ValueError
        For no seed or one that is named twice, and where `make_model` returns a model that it has returned before.
    """
    config, models, histories = config or FitConfig(), [], []
    known = isinstance(seeds, Sequence) and 0 < len(seeds) == len(set(seeds))
    require(known, f"seeds is {seeds!r}; give a list of at least one, and each once.")
    for seed in seeds:
        models.append(make_model(seed))
        text = "make_model returned a model that it had returned before; it must make a new one at every call."
        require(len({id(model) for model in models}) == len(models), text)
        folder = Path(config.checkpoints) / f"seed-{seed}" if config.checkpoints is not None else None
        histories.append(fit(models[-1], train, val, replace(config, seed=seed, checkpoints=folder)))
        if histories[-1].attrs["interrupted"]:
            break
    return models, histories


def _control_mean(train: PerturbationData, val: PerturbationData | None) -> float | None:
    """The bound of cells to validate on, if no perturbation did anything; None where there is nothing to tell it by."""
    if val is None or not train.counts or not (train.n_perturbations == 0).any() or isinstance(train.x, OnDisk):
        return None
    return -validate(ControlMean(train.summary(pseudobulk=True)), val, 1)["val_loss"]


def _log(
    state: TrainingState, config: FitConfig, epoch: int, val: PerturbationData | None, monitor: Monitor | None
) -> dict[str, float]:
    """Validate, and add a row to the history, which is returned."""
    model, parameter = state.model, next(state.model.parameters())
    row = {"step": state.step, "epoch": state.step / epoch, "seconds": state.seconds} | state.means()
    if val:
        published = config.validation == "as_published"
        counts = shared_counts(val, parameter.device, parameter.dtype, model.summary.pairs) if published else None
        row |= validate(model, val, config.particles, config.batch_size, counts)
    _stop_if_broken(row, state, config)
    row |= monitor(model) if monitor else {}
    settled = model.settled and (config.critic or Schedule()).weight(state.step) == 1
    state.log(row, may_be_best=config.keep == "best" and settled)
    return row


@torch.no_grad()
def validate(
    model: Model, data: PerturbationData, particles: int, batch_size: int = 512, counts: Counts | None = None
) -> dict[str, float]:
    """Mean negative bound a cell ("val_loss") and its terms ("val_x", ...) in nats, with a fixed seed.

    Parameters
    ----------
    model
        The model; it is in training mode afterwards.
    data
        Cells to validate on.
    particles
        Draws of the latent variables.
    batch_size
        Cells at a time; memory depends on it, and so do the draws.
    counts
        n_t of each shared plate; None gives the held-out bound.
    """
    data, parameter = align(data, model), next(model.parameters())
    sums: dict[str, float] = defaultdict(float)
    with _seeds_restored(parameter.device):
        torch.manual_seed(VALIDATION_SEED)
        model.eval()
        for start in range(0, len(data), batch_size):
            rows = slice(start, min(start + batch_size, len(data)))
            b, active = present(data.batch(rows, dtype=parameter.dtype).to(parameter.device))
            terms = log_weights(model, b, posterior(model, b, particles, active), counts)
            for name, of_cells in [("loss", -elbo(terms)), *((k, v.mean(0)) for k, v in terms.items())]:
                sums[f"val_{name}"] += of_cells.sum().item()
        model.train()
    return {name: value / len(data) for name, value in sums.items()}


def shared_counts(
    data: PerturbationData, device: torch.device, dtype: torch.dtype, pairs: Sequence[tuple[int, int]] | None = None
) -> Counts:
    """n_t of each shared plate: the number of cells of this split that share each row.

    Parameters
    ----------
    data
        The cells that are counted.
    device, dtype
        Where the counts are to be, and of which type.
    pairs
        The rows of the plate of pairs, those of the model's summary. None: the pairs that the data have.
    """
    first, second = np.reshape(data.pairs if pairs is None else pairs, (-1, 2)).astype(int).T
    on, per_plate = data.dose != 0, {Plate.DOSE: data.n_treated, Plate.QC: (data.qc != 0).sum(0)}
    per_plate[Plate.PAIR] = np.asarray(on[:, first].multiply(on[:, second]).sum(0)).ravel()
    if data.targets:  # a cell counts once for each guide of the target that it has
        of = numbers(data.targets).numpy()
        per_plate[Plate.TARGET] = np.bincount(of, data.n_treated)[of]
    return {plate: torch.as_tensor(n, device=device).to(dtype) for plate, n in per_plate.items()}


def _seeds_restored(device: torch.device) -> AbstractContextManager[None]:
    """The caller's random streams go on afterwards as if nothing had been drawn."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C fills the list instead of breaking off in the middle of a step; a second one breaks off."""
    asked: list[bool] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    previous = signal.getsignal(signal.SIGINT)
    with ExitStack() as afterwards:
        # Only the main thread may set a handler; a job that its shell has shielded from Ctrl-C is to stay so; and None
        # is a handler of the program that Python runs in, which could not be put back.
        if threading.current_thread() is threading.main_thread() and previous not in (signal.SIG_IGN, None):
            afterwards.callback(signal.signal, signal.SIGINT, previous)
            signal.signal(signal.SIGINT, note)
        yield asked


def _stop_if_broken(row: dict[str, float], state: TrainingState, config: FitConfig) -> None:
    broken = next((name for name in ("loss", "val_loss") if not np.isfinite(row.get(name, 0))), None)
    if broken:
        best = state.restore_best()
        kept = f"those of step {best}, the best so far" if state.best else "broken too; make the model again"
        remedy = f"lower learning_rate (now {config.learning_rate}) or set clip"
        raise FloatingPointError(f"{broken} is not finite at step {state.step}; {remedy}. The weights are {kept}.")


@torch.no_grad()
def _check(model: Model, train: PerturbationData, val: PerturbationData | None, config: FitConfig) -> None:
    if not train.counts:
        parameter = next(model.parameters())
        c = train.batch(slice(0, 1), parameter.dtype).condition.to(parameter.device)
        with _seeds_restored(parameter.device):
            law = model.generate(Trace(1), c)
        text = f"The training data are real-valued, but the likelihood is of counts ({type(law).__name__})"
        remedy = "choose likelihood='normal' or 'normal_fixed_variance', or give counts"
        require(not getattr(law.support, "is_discrete", False), f"{text}; {remedy}.")
    text = f"{type(model).__name__} has no critic, so the option critic would do nothing; leave it out."
    require(isinstance(model, Adversarial) or not config.critic, text)
    text = "validation is 'as_published', but there are no cells to validate on; give val."
    require(val is not None or config.validation != "as_published", text)


def _fingerprint(
    model: Model, train: PerturbationData, val: PerturbationData | None, config: FitConfig, steps: int
) -> dict:
    """What must agree for a checkpoint to be this run's: model, data, and all of the configuration; its length only
    where the steps depend on it."""
    free = ("steps", "epochs", "device", "progress", "checkpoints")
    same = {name: value for name, value in asdict(config).items() if name not in free}
    same |= {"steps": steps} if config.decay or not model.settled else {}
    same["validate_every"] = config.validate_every or "by length"
    cells = {"training": train.digest(), "validation": {"cells": "none"} if val is None else val.digest()}
    data = {f"{part} {what}": value for part, digest in cells.items() for what, value in digest.items()}
    return {"model": type(model).__name__, "options": model.options, "config": same} | data
