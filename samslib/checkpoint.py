"""Saving without pickle: safetensors for numbers, JSON in the file's header for the rest, written atomically."""

from __future__ import annotations

import json
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from samslib.cells import DataSummary, Pseudobulk
from samslib.model import DEFINED, Model
from samslib.models import BASELINES, MODELS
from samslib.validation import choose_device, require

FORMAT = 1
KINDS = MODELS | BASELINES


def save(model: Model, path: str | Path) -> Path:
    """Write a model (name, options, data summary, weights) to one file; an existing file is replaced only when all is
    written. Of a class of your own the file holds the name and not the code: `load` needs the class.

    Parameters
    ----------
    model
        Any model, of the library or of your own.
    path
        The file; its folder must exist.

    Returns
    -------
    The path.

    Raises
    ------
    OSError
        If it cannot be written, with the path and the reason.
    ValueError
        For an option that no file can hold.
    """
    summary, bulk = vars(model.summary), model.summary.pseudobulk
    numbers = {name: value for name, value in summary.items() if isinstance(value, Tensor)}
    facts = {name: value for name, value in summary.items() if name not in {*numbers, "pseudobulk"}}
    parts = {"model": model.state_dict(), "summary": numbers, "pseudobulk": vars(bulk) if bulk else {}}
    kind, own = type(model), {kind: name for name, kind in KINDS.items()}
    about = {"model": own[kind]} if kind in own else {"model": kind.__name__, "module": kind.__module__}
    return _write(path, parts, {"kind": "model", **about, "options": _options(model), "summary": facts})


def load(path: str | Path, device: str = "cpu", kind: type[Model] | None = None) -> Model:
    """The model that `save` wrote.

    Parameters
    ----------
    path
        The file.
    device
        Where the model is to be: "cpu", "cuda", ..., or "auto" for a CUDA GPU if there is one.
    kind
        Its class. None finds it by name among the library's own and those that have been defined in this session, such
        as in a notebook; of a class defined twice, the newest counts.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For a damaged or foreign file, a class that is not known or does not fit the file, and a device that is not
        there.
    """
    where = choose_device(device)
    parts, facts = _read(path, "model")
    kind, weights = kind or _kind(path, facts), parts["model"]
    bulk = Pseudobulk(**parts["pseudobulk"]) if parts["pseudobulk"] else None
    summary = DataSummary(**_with_tuples(facts["summary"]) | parts["summary"], pseudobulk=bulk)
    arguments = {"summary": summary, **_with_tuples(facts["options"])}
    dtype = next((v.dtype for v in weights.values() if v.is_floating_point()), None)
    try:
        model = kind(**arguments).to(dtype)
        model.load_state_dict(weights)
    except (TypeError, RuntimeError) as error:  # an option, or a parameter's name or shape
        remedy = "give load(path, kind=...) the class that the model was saved from"
        raise ValueError(f"{path} does not fit {kind.__name__} as it is defined now: {error}; {remedy}.") from error
    return model.to(where)


def _kind(path: str | Path, facts: Mapping[str, Any]) -> type[Model]:
    """The class of a file's model: the library's own of that name, or one of the session's."""
    name, module = facts["model"], facts.get("module")
    if module is None:
        require(name in KINDS, f"{path} holds a {name!r}, which this version does not know: {sorted(KINDS)}.")
        return KINDS[name]
    found = {m: kind for (m, n), kind in DEFINED.items() if n == name and kind not in KINDS.values()}
    here = f"several classes of that name are, in {sorted(found)}" if found else "no such class is here"
    remedy = f"run or import what defines it, or give it as load(path, kind={name})"
    text = f"{path} holds a model of the class {name} of {module}, and {here}; {remedy}."
    require(module in found or len(found) == 1, text)
    return found[module if module in found else next(iter(found))]


def _options(model: Model) -> dict[str, Any]:
    """The model's options. Raises ValueError for one that would not come back from JSON as it is."""
    for name, value in model.options.items():
        same = False
        with suppress(TypeError, ValueError):
            same = _with_tuples(json.loads(json.dumps(value))) == value
        text = f"The option {name} of {type(model).__name__} is a {type(value).__name__}, which a file cannot hold"
        require(same, f"{text} as it is; make it a number, a text, None, or a tuple of these.")
    return model.options


def _with_tuples(value: Any) -> Any:
    """What JSON gives back, with tuples for its lists."""
    if isinstance(value, dict):
        return {key: _with_tuples(part) for key, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


class TrainingState:
    """All that a stopped run needs to go on: weights, optimisers, best weights, history and position.

    Kept in one file of the folder, so that a kill at any moment leaves the last whole state. Without a folder the same
    state lives in memory only.

    Parameters
    ----------
    model, optimizers
        What is trained, and by which optimisers; their states are read and set in place.
    folder
        Where the state is kept; None keeps it in memory only.
    fingerprint
        What must agree for a saved state to be this run's, by name, as JSON can hold it.
    """

    FILE = "training.safetensors"
    FACTS = ("step", "rows", "best_step", "best_loss")

    def __init__(
        self, model: Model, optimizers: Sequence[Optimizer], folder: str | Path | None, fingerprint: dict[str, Any]
    ):
        self.model, self.optimizers, self.path, self.fingerprint = model, optimizers, None, {}
        if folder is not None:
            self.path = Path(folder) / self.FILE
            self.fingerprint = json.loads(json.dumps(fingerprint | {"options": _options(model)}))
        self.began = time.perf_counter()
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}  # name -> sum and number of a term's values since the last row
        self.best: dict[str, Tensor] = {}
        self.step, self.best_step, self.best_loss = 0, 0, float("inf")

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a stop included."""
        return time.perf_counter() - self.began

    @property
    def waited(self) -> int:
        """Validations since the best one; 0 as long as none could be the best."""
        return sum(row["step"] > self.best_step for row in self.rows) if self.best else 0

    def count(self, terms: Mapping[str, Tensor]) -> None:
        """A step has been made, with these terms of its loss."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + torch.stack([value, torch.ones_like(value)])
        self.step += 1

    def means(self) -> dict[str, float]:
        """The means of all terms since the last row."""
        return {name: total.item() / number.item() for name, (total, number) in self.sums.items()}

    def log(self, row: dict[str, float], may_be_best: bool) -> None:
        """Add a row of history; remember the weights if they may count and its validation loss is the best so far."""
        self.rows.append(row)
        self.sums.clear()
        if may_be_best and row.get("val_loss", float("inf")) < self.best_loss:
            self.best_loss, self.best_step = row["val_loss"], self.step
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def restore_best(self) -> int:
        """Put the best weights into the model; without any validation the last weights stay. Returns their step."""
        if self.best:
            self.model.load_state_dict(self.best)
        return self.best_step if self.best else self.step

    def try_to_save(self) -> None:
        """`save`, but a disk that has filled up meanwhile costs a warning and not the training so far."""
        try:
            self.save()
        except OSError as error:
            warnings.warn(f"Training goes on, but step {self.step} was not saved: {error}", stacklevel=3)

    def save(self) -> None:
        """Write the state, if there is a folder for it. Raises OSError with the path and the reason."""
        if self.path is None:
            return
        with suppress(OSError):  # writing says what is wrong
            self.path.parent.mkdir(parents=True, exist_ok=True)
        parts = {"model": self.model.state_dict(), "best": self.best}
        for i, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()["state"]
            parts[f"optimizer{i}"] = {f"{j}.{k}": v for j, moments in state.items() for k, v in moments.items()}
        facts = {name: getattr(self, name) for name in ("fingerprint", "seconds", *self.FACTS)}
        sums = {name: value.tolist() for name, value in self.sums.items()}
        _write(self.path, parts, {"kind": "training", "sums": sums} | facts)

    def resume(self) -> None:
        """Take up the folder's run if there is one. Raises ValueError if it is another run's, naming what differs."""
        if self.path is None or not self.path.exists():
            return
        parts, facts = _read(self.path, "training")
        for what, value in self.fingerprint.items():
            there = facts["fingerprint"].get(what)
            text = f"{self.path.parent} holds a run that differs in {what}: {there} there, {value} now"
            require(there == value, f"{text}; choose another folder or delete this one.")
        for name in self.FACTS:
            setattr(self, name, facts[name])
        self.began = time.perf_counter() - facts["seconds"]
        first = next(self.model.parameters())
        self.sums = {name: first.new_tensor(value) for name, value in facts["sums"].items()}
        self.best = {name: value.to(first.device) for name, value in parts["best"].items()}
        self.model.load_state_dict(parts["model"])
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = defaultdict(dict)
            for name, value in parts[f"optimizer{i}"].items():
                parameter, moment = name.split(".")
                state[int(parameter)][moment] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def _write(path: str | Path, parts: Mapping[str, Mapping[str, Tensor]], facts: dict[str, Any]) -> Path:
    """Write tensors, named by their part and their name in it, and facts, all or nothing."""
    path = Path(path)
    held = {f"{part}.{k}": v.detach().cpu().contiguous().clone() for part, of in parts.items() for k, v in of.items()}
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        save_file(held, unfinished, metadata={"samslib": json.dumps({"format": FORMAT} | facts)})
        unfinished.chmod(mode)  # that of any new file, which safetensors' own is not
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        remedy = "choose a folder that exists and has room; what was there before is untouched"
        raise OSError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}); {remedy}.") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
    return path


def _read(path: str | Path, kind: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The parts and the facts that `_write` wrote; a part that is not there is empty."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}; give the path that samslib.save returned.")
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("samslib", "{}"))
            for key in file.keys():
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); save it again.") from error
    if facts.get("kind") != kind or facts.get("format") != FORMAT:
        raise ValueError(f"{path} is no samslib {kind} file of format {FORMAT}.")
    return parts, facts
