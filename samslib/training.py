"""`fit`: the one training loop, for every model."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from samslib.alignment import align
from samslib.cells import Plate
from samslib.checkpoint import TrainingState
from samslib.data.batches import Batches, step_seed
from samslib.data.container import PerturbationData
from samslib.distributions import Likelihood
from samslib.model import Adversarial, Auxiliary, Model
from samslib.objective import elbo, iwelbo, log_weights, posterior, present
from samslib.progress import Progress
from samslib.trace import Trace
from samslib.validation import above, at_least, choose, choose_device, number, whole

VALIDATION_SEED = 2**40  # far from every training step's seed, and the same at each validation: its noise is shared


@dataclass(frozen=True)
class FitConfig:
    """How to train; the defaults are the paper's for its Norman experiments.

    steps or epochs (not both; 30,000 steps if neither); batch_size cells, reshuffled each epoch, the last batch may be
    smaller; Adam with learning_rate and weight_decay (L2 on every parameter, as published); particles a step; clip: the
    largest gradient norm, None for no clipping; seed of data order and draws (a model's own `seed` draws its initial
    weights); validate_every steps (by default once an epoch, at most a hundred times); objective "elbo" or "iwelbo";
    analytic_kl: closed forms where prior and posterior are Normal (for the ELBO only); kl_warmup: steps over
    which the weight of every term but the likelihood rises from 0 to 1; validation "held_out" (shared latents taken as
    given, so that models and splits compare) or "as_published" (shared latents charged with the validation split's own
    n_t); keep "best" or "last" weights; device "auto", "cpu", "cuda", ...; progress bar; checkpoints: a folder, in
    which training is saved at every validation and from which it resumes. Cells on disk are shuffled in windows, not
    all at once; the book's appendix on performance says how well.

    For a model with a critic (`model.Adversarial`), which has an optimizer of its own with learning rate critic_rate
    (learning_rate if None): critic_steps None lets both learn at every step, first the model and then the critic; with
    k, the critic learns at k - 1 of k steps and the model at the other. pretrain: steps at the start at which both
    learn but the model is not paid for misleading the critic; warm_up: steps after them over which the weight of that
    payment rises from 0 to 1. Until then no weights count as best, for the bound does not know of the critic.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 512
    learning_rate: float = 3e-4
    weight_decay: float = 1e-6
    particles: int = 5
    clip: float | None = None
    seed: int = 0
    validate_every: int | None = None
    objective: str = "elbo"
    analytic_kl: bool = False
    kl_warmup: int = 0
    critic_steps: int | None = None
    critic_rate: float | None = None
    pretrain: int = 0
    warm_up: int = 0
    validation: str = "held_out"
    keep: str = "best"
    device: str = "auto"
    progress: bool = True
    checkpoints: str | Path | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            kind, value = str(field.type).removesuffix(" | None"), getattr(self, field.name)
            if kind in _NUMBERS and not (value is None and str(field.type).endswith("None")):
                object.__setattr__(self, field.name, _NUMBERS[kind](field.name, value))
        if self.steps is not None and self.epochs is not None:
            raise ValueError("Give steps or epochs, not both.")
        positive = (
            "steps",
            "epochs",
            "batch_size",
            "learning_rate",
            "particles",
            "clip",
            "validate_every",
            "critic_rate",
        )
        above(0, **{name: value for name in positive if (value := getattr(self, name)) is not None})
        at_least(
            0, **{name: getattr(self, name) for name in ("weight_decay", "kl_warmup", "pretrain", "warm_up", "seed")}
        )
        if self.critic_steps is not None and self.critic_steps < 2:
            raise ValueError(
                f"critic_steps is {self.critic_steps}; give 2 or more, so that the critic learns at all but one of so "
                "many steps, or None if both learn at every step."
            )
        if self.analytic_kl and self.objective != "elbo":
            raise ValueError("analytic_kl needs objective='elbo'; an IWELBO weighs draws by their sampled ratios.")
        for name, choices in _CHOICES.items():
            choose(name, getattr(self, name), choices)


_NUMBERS: dict[str, Callable[[str, Any], float]] = {"int": whole, "float": number}

_CHOICES: dict[str, tuple[str, ...]] = {
    "objective": ("elbo", "iwelbo"),
    "validation": ("held_out", "as_published"),
    "keep": ("best", "last"),
}


class History(pd.DataFrame):
    """One row a validation, indexed by step: epoch, seconds, the training loss and every term of it by name (means
    since the last row, nats a cell) and of a model's penalties, "val_..." of the bound and its terms on the validation
    cells, and what a monitor reported.

    `attrs` holds best_step, interrupted, device, seconds and the configuration.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame


def prepare(kind: type[Model], data: PerturbationData) -> PerturbationData:
    """The data as models of this class take them, so that one loop trains any of them; to be split afterwards.

    Each combination becomes a perturbation of its own (`encode_unique`) where the class takes no combinations. Where it
    needs a quality flag and the data have none, they get one that every cell passes.
    """
    if not kind.takes_combinations:
        data = data.encode_unique()
    if "quality" in kind.needs and not data.quality:
        data = replace(data, qc=np.zeros((len(data), 1), dtype=np.float32), quality=("fails",))
    return data


def fit(
    model: Model,
    train: PerturbationData,
    val: PerturbationData | None = None,
    config: FitConfig | None = None,
    monitor: Callable[[Model], dict[str, float]] | None = None,
) -> History:
    """Train in place, keep the weights that were best on `val`, and return the History.

    Ctrl-C ends training after the step in progress and returns what there is (a second one breaks off at once); where
    the shell has it ignored, as for a job that a script starts in the background, training ignores it too. With
    `config.checkpoints` an earlier run in that folder is resumed: on a CPU the weights are bit for bit those of the run
    that was never stopped, for data order and draws are functions of (seed, step) alone. `monitor` is called at each
    validation and its numbers become columns.

    Raises DataError (a ValueError) if the data are not such as the model was made for (`samslib.align`); ValueError if
    a setting would do nothing, or the folder holds another run; FloatingPointError if the loss stops being finite (the
    best weights so far are restored first).
    """
    config = config or FitConfig()
    train, val = align(train, model), None if val is None else align(val, model)
    _check_likelihood(model, train)
    _check_critic(model, config)
    if val is None and config.validation == "as_published":
        raise ValueError("validation is 'as_published', but there are no cells to validate on; give val.")
    batches = -(-len(train) // config.batch_size)
    steps = config.steps or (config.epochs * batches if config.epochs else 30_000)
    every = config.validate_every or max(batches, -(-steps // 100))
    device = choose_device(config.device)
    model.to(device)
    dtype = next(model.parameters()).dtype
    critic = model if isinstance(model, Adversarial) else None
    optimizers = _optimizers(model, config)
    counts = shared_counts(train, device, dtype)
    val_counts = shared_counts(val, device, dtype) if val and config.validation == "as_published" else None
    state = TrainingState(model, optimizers, config.checkpoints, _fingerprint(model, train, val, config))
    state.resume()
    state.save(state.seconds)  # a folder that cannot be written is found out now, not after an hour
    sums: dict[str, Tensor] = state.running
    started, bound = time.perf_counter() - state.seconds, {"elbo": elbo, "iwelbo": iwelbo}[config.objective]

    def record(step: int) -> dict[str, float]:
        row: dict[str, float] = {"step": step, "epoch": step / batches, "seconds": time.perf_counter() - started}
        row |= {name: value[0].item() / value[1].item() for name, value in sums.items()}
        if val:
            row |= validate(model, val, config.particles, config.batch_size, val_counts)
        _stop_if_broken(row, state, config)
        return row | (monitor(model) if monitor else {})

    def keep(step: int) -> str:
        return config.keep if step >= config.pretrain + config.warm_up else "last"

    with _seeds_restored(device), _deferred_interrupt() as asked, Progress(steps, config.progress, state.step) as bar:
        model.train()
        batch = Batches(train, config.batch_size, config.seed)
        while state.step < steps and not asked:
            torch.manual_seed(step_seed(config.seed, state.step))
            b, active = present(batch(state.step, dtype).to(device))
            learns, criticises = _turns(config, state.step)
            with torch.set_grad_enabled(learns):
                q = posterior(model, b, config.particles, active)
            news: dict[str, Tensor] = {}
            if learns:
                terms = log_weights(model, b, q, counts, config.analytic_kl)
                warm = min(1.0, state.step / config.kl_warmup) if config.kl_warmup else 1.0
                weights = model.weigh(b) if isinstance(model, Auxiliary) else 1.0
                loss = -bound({k: weights * v if k == "x" else warm * v for k, v in terms.items()}).mean()
                news = {k: v.mean() for k, v in terms.items()}
                if isinstance(model, Auxiliary):
                    extra = model.penalty(b, q)
                    loss = loss + warm * sum(extra.values())
                    news |= extra
                if critic:
                    penalty = critic.penalty(b, q)
                    loss = loss + _payment(config, state.step) * torch.stack(list(penalty.values())).sum()
                    news |= penalty
                news = {"loss": loss} | news
                _descend(optimizers[0], loss, config.clip)
            if critic and criticises:
                news["critic"] = critic.critic_loss(b, q)
                _descend(optimizers[1], news["critic"], config.clip)
            for name, value in news.items():
                one = torch.stack([value.detach(), torch.ones_like(value)])
                sums[name] = sums[name] + one if name in sums else one
            state.step += 1
            bar.advance()
            if state.step % every == 0:
                state.log(record(state.step), keep(state.step))
                sums.clear()
                bar.note(state.rows[-1])
                state.try_to_save(time.perf_counter() - started)
        if asked or state.step % every:
            # Before a row that is off the schedule, so that a resumed run never sees it.
            state.try_to_save(time.perf_counter() - started)
        if not asked and state.step % every:
            state.log(record(state.step), keep(state.step))
            bar.note(state.rows[-1])
    if config.keep == "best":
        state.restore_best()
    history = History(state.rows)
    if len(history):
        history = History(history.set_index("step"))
    history.attrs = {
        "best_step": state.best_step if config.keep == "best" else state.step,
        "interrupted": bool(asked),
        "device": str(device),
        "seconds": time.perf_counter() - started,
        "config": asdict(config) | {"steps": steps, "validate_every": every},
    }
    return history


def _optimizers(model: Model, config: FitConfig) -> list[torch.optim.Optimizer]:
    """Adam for the model, and one of its own for its critic if it has one."""
    theirs = list(model.critic.parameters()) if isinstance(model, Adversarial) else []
    ids = {id(p) for p in theirs}
    groups = [([p for p in model.parameters() if id(p) not in ids], config.learning_rate)]
    groups += [(theirs, config.critic_rate or config.learning_rate)] if theirs else []
    return [torch.optim.Adam(group, lr=rate, weight_decay=config.weight_decay) for group, rate in groups]


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()


def _turns(config: FitConfig, step: int) -> tuple[bool, bool]:
    """Whether the model and whether its critic learns at this step."""
    if config.critic_steps is None or step < config.pretrain:
        return True, True
    model = step % config.critic_steps == 0
    return model, not model


def _payment(config: FitConfig, step: int) -> float:
    """The weight of the model's penalty: 0 in pre-training, then rising to 1 over the warm-up."""
    if step < config.pretrain:
        return 0.0
    return min(1.0, (step - config.pretrain) / config.warm_up) if config.warm_up else 1.0


@torch.no_grad()
def validate(
    model: Model,
    data: PerturbationData,
    particles: int,
    batch_size: int = 512,
    counts: dict[Plate, Tensor] | None = None,
) -> dict[str, float]:
    """Mean negative bound a cell ("val_loss") and its terms ("val_x", ...) in nats, with a fixed seed."""
    data, parameter = align(data, model), next(model.parameters())
    sums: dict[str, float] = {}
    with _seeds_restored(parameter.device):
        torch.manual_seed(VALIDATION_SEED)
        model.eval()
        for start in range(0, len(data), batch_size):
            rows = slice(start, min(start + batch_size, len(data)))
            b, active = present(data.batch(rows, dtype=parameter.dtype).to(parameter.device))
            terms = log_weights(model, b, posterior(model, b, particles, active), counts)
            for name, value in [("loss", -elbo(terms)), *((k, v.mean(0)) for k, v in terms.items())]:
                sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + value.sum().item()
        model.train()
    return {name: value / len(data) for name, value in sums.items()}


def shared_counts(data: PerturbationData, device: torch.device, dtype: torch.dtype) -> dict[Plate, Tensor]:
    """n_t of each shared plate: the number of cells of this split that share each row."""
    flagged = (data.qc != 0).sum(0)
    per_plate = {Plate.DOSE: data.n_treated, Plate.QC: flagged}
    return {plate: torch.as_tensor(n, device=device).to(dtype) for plate, n in per_plate.items()}


@contextmanager
def _seeds_restored(device: torch.device) -> Iterator[None]:
    """The caller's random streams go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C fills the list instead of breaking off in the middle of a step; a second one breaks off."""
    asked: list[bool] = []
    previous = signal.getsignal(signal.SIGINT)
    # Only the main thread may set a handler; a job that its shell has shielded from Ctrl-C is to stay so; and None is
    # a handler of the program that Python runs in, which could not be put back.
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)


def _stop_if_broken(row: dict[str, float], state: TrainingState, config: FitConfig) -> None:
    broken = sorted(k for k, v in row.items() if not math.isfinite(v) and k in ("loss", "val_loss"))
    if broken:
        state.restore_best()
        kept = f"those of step {state.best_step}, the best so far" if state.best else "broken too; make the model again"
        raise FloatingPointError(
            f"{broken[0]} is not finite at step {row['step']}; lower learning_rate (now {config.learning_rate}) or set "
            f"clip. The weights are {kept}."
        )


def _check_likelihood(model: Model, train: PerturbationData) -> None:
    if not train.counts and (law := _likelihood(model, train)).support.is_discrete:
        raise ValueError(
            f"The training data are real-valued, but the likelihood is of counts ({type(law).__name__}); choose "
            "likelihood='normal' or 'normal_fixed_variance', or give counts."
        )


@torch.no_grad()
def _likelihood(model: Model, data: PerturbationData) -> Likelihood:
    """The law of one cell."""
    parameter = next(model.parameters())
    c = data.batch(slice(0, 1), parameter.dtype).condition.to(parameter.device)
    with _seeds_restored(parameter.device):
        return model.generate(Trace(1), c)


def _check_critic(model: Model, config: FitConfig) -> None:
    standard = FitConfig()
    asked = [
        k for k in ("critic_steps", "critic_rate", "pretrain", "warm_up") if getattr(config, k) != getattr(standard, k)
    ]
    if asked and not isinstance(model, Adversarial):
        raise ValueError(f"{type(model).__name__} has no critic, so {', '.join(asked)} would do nothing; leave it out.")


def _fingerprint(model: Model, train: PerturbationData, val: PerturbationData | None, config: FitConfig) -> dict:
    """What must agree for a checkpoint to be this run's: model, data, and all of the configuration but its length."""
    same = asdict(config)
    for free in ("steps", "epochs", "device", "progress", "checkpoints"):
        same.pop(free)
    if same["validate_every"] is None:
        same["validate_every"] = "by length"
    data = {
        f"{part} {what}": value
        for part, d in (("training", train), ("validation", val))
        for what, value in ({"cells": "none"} if d is None else d.digest()).items()
    }
    return {"model": type(model).__name__, "options": model.options, "config": same} | data
