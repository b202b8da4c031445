"""Saving without pickle: safetensors for numbers, JSON in the file's header for the rest, written atomically."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from samslib.cells import DataSummary, Pseudobulk
from samslib.model import DEFINED, Model
from samslib.models import BASELINES, MODELS
from samslib.validation import choose_device

FORMAT = 1
KINDS = MODELS | BASELINES


def save(model: Model, path: str | Path) -> Path:
    """Write a model (name, options, data summary, weights) to one file; an existing file is replaced only when all is
    written. Of a class of your own the file holds the name and not the code: `load` needs the class.

    Raises OSError with the path and the reason if it cannot be written, ValueError for an option that no file can hold.
    """
    facts, tensors = _summary_parts(model.summary)
    tensors |= {f"model.{k}": v for k, v in model.state_dict().items()}
    kind, own = type(model), {kind: name for name, kind in KINDS.items()}
    about = {"model": own[kind]} if kind in own else {"model": kind.__name__, "module": kind.__module__}
    return _write(path, tensors, {"kind": "model", **about, "options": _options(model), "summary": facts})


def load(path: str | Path, device: str = "cpu", kind: type[Model] | None = None) -> Model:
    """The model that `save` wrote.

    kind: its class. The library's own are known by name, and so is any class that has been defined in this session,
    such as in a notebook; of a class defined twice, the newest counts.

    Raises FileNotFoundError, or ValueError for a damaged or foreign file, a class that is not known or does not fit
    the file, and a device that is not there.
    """
    where = choose_device(device)
    tensors, facts = _read(path, "model")
    kind = kind or _kind(path, facts)
    arguments = {"summary": _summary(facts["summary"], tensors), **_with_tuples(facts["options"])}
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise _misfit(path, kind, str(error)) from None
    model = kind(**arguments)
    held, made = ({name: tuple(v.shape) for name, v in part.items()} for part in (weights, model.state_dict()))
    for name in sorted(held | made):
        file, here = held.get(name, "missing"), made.get(name, "missing")
        if file != here:
            raise _misfit(path, kind, f"the shape of {name} is {file} in the file and {here} in the class")
    model.to(next((v.dtype for v in weights.values() if v.is_floating_point()), torch.get_default_dtype()))
    model.load_state_dict(weights)
    return model.to(where)


def _kind(path: str | Path, facts: Mapping[str, Any]) -> type[Model]:
    """The class of a file's model: the library's own of that name, or one of the session's."""
    name, module = facts["model"], facts.get("module")
    if module is None:
        if name not in KINDS:
            raise ValueError(f"{path} holds a {name!r}, which this version does not know: {sorted(KINDS)}.")
        return KINDS[name]
    found = {m: kind for (m, n), kind in DEFINED.items() if n == name and kind not in KINDS.values()}
    if module in found:
        return found[module]
    if len(found) == 1:
        return next(iter(found.values()))
    here = f"several classes of that name are, in {sorted(found)}" if found else "no such class is here"
    raise ValueError(
        f"{path} holds a model of the class {name} of {module}, and {here}; run or import what defines it, or give it "
        f"as load(path, kind={name})."
    )


def _misfit(path: str | Path, kind: type[Model], why: str) -> ValueError:
    return ValueError(
        f"{path} does not fit {kind.__name__} as it is defined now: {why}; give load(path, kind=...) the class that "
        "the model was saved from."
    )


def _options(model: Model) -> dict[str, Any]:
    """The model's options. Raises ValueError for one that would not come back from JSON as it is."""
    for name, value in model.options.items():
        try:
            same = _with_tuples(json.loads(json.dumps(value))) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(
                f"The option {name} of {type(model).__name__} is a {type(value).__name__}, which a file cannot hold as "
                "it is; make it a number, a text, None, or a tuple of these."
            )
    return model.options


def _with_tuples(value: Any) -> Any:
    """What JSON gives back, with tuples for its lists."""
    if isinstance(value, dict):
        return {key: _with_tuples(part) for key, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


class TrainingState:
    """All that a stopped run needs to go on: weights, optimizers, best weights, history and position.

    Kept in one file of the folder, so that a kill at any moment leaves the last whole state. Without a folder the same
    state lives in memory only.
    """

    FILE = "training.safetensors"

    def __init__(
        self,
        model: Model,
        optimizers: Sequence[torch.optim.Optimizer],
        folder: str | Path | None,
        fingerprint: dict[str, Any],
    ):
        self.model = model
        # Of every parameter, the state of the optimizer that it belongs to.
        self.moments = {p: o.state for o in optimizers for group in o.param_groups for p in group["params"]}
        self.path = None if folder is None else Path(folder) / self.FILE
        self.fingerprint: dict[str, Any] = {}
        if folder is not None:
            self.fingerprint = json.loads(json.dumps(fingerprint | {"options": _options(model)}))
        self.step, self.seconds = 0, 0.0
        self.rows: list[dict[str, float]] = []
        self.running: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = {}
        self.best_step, self.best_loss = 0, float("inf")

    def log(self, row: dict[str, float], keep: str) -> None:
        """Add a row of history; remember the weights if its validation loss is the best so far."""
        self.rows.append(row)
        if keep == "best" and row.get("val_loss", float("inf")) < self.best_loss:
            self.best_loss, self.best_step = row["val_loss"], self.step
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Put the best weights into the model; without any validation the last weights stay."""
        if self.best:
            self.model.load_state_dict(self.best)
        else:
            self.best_step = self.step

    def try_to_save(self, seconds: float) -> None:
        """`save`, but a disk that has filled up meanwhile costs a warning and not the training so far."""
        try:
            self.save(seconds)
        except OSError as error:
            warnings.warn(f"Training goes on, but step {self.step} was not saved: {error}", stacklevel=3)

    def save(self, seconds: float) -> None:
        """Write the state, if there is a folder for it. Raises OSError with the path and the reason."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"The folder {self.path.parent} cannot be made ({error.strerror}); choose another."
            ) from error
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()} | {f"sum.{k}": v for k, v in self.running.items()}
        for name, parameter in self.model.named_parameters():
            tensors |= {f"adam.{name}/{k}": v for k, v in self.moments[parameter].get(parameter, {}).items()}
        facts = {k: getattr(self, k) for k in ("fingerprint", "step", "rows", "best_step", "best_loss")}
        facts |= {"kind": "training", "seconds": seconds, "running": list(self.running)}
        _write(self.path, tensors, facts)

    def resume(self) -> None:
        """Take up the folder's run if there is one. Raises ValueError if it is another run's, naming what differs."""
        if self.path is None or not self.path.exists():
            return
        tensors, facts = _read(self.path, "training")
        for what, value in self.fingerprint.items():
            if facts["fingerprint"].get(what) != value:
                raise ValueError(
                    f"{self.path.parent} holds a run that differs in {what}: {facts['fingerprint'].get(what)} there, "
                    f"{value} now; choose another folder or delete this one."
                )
        for k in ("step", "rows", "best_step", "best_loss", "seconds"):
            setattr(self, k, facts[k])
        device = next(self.model.parameters()).device
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.best = {k[5:]: v.to(device) for k, v in tensors.items() if k.startswith("best.")}
        self.running.update({k: tensors[f"sum.{k}"].to(device) for k in facts["running"]})
        moments: dict[str, dict[str, Tensor]] = {}
        for k, v in tensors.items():
            if k.startswith("adam."):
                name, key = k[5:].rsplit("/", 1)
                moments.setdefault(name, {})[key] = v if key == "step" else v.to(device)
        for name, parameter in self.model.named_parameters():
            if name in moments:
                self.moments[parameter][parameter] = moments[name]


def _summary_parts(summary: DataSummary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    values = {f.name: getattr(summary, f.name) for f in fields(summary) if f.name != "pseudobulk"}
    tensors = {f"summary.{k}": v for k, v in values.items() if isinstance(v, Tensor)}
    if summary.pseudobulk:
        tensors |= {f"pseudobulk.{k}": v for k, v in vars(summary.pseudobulk).items()}
    return {k: v for k, v in values.items() if not isinstance(v, Tensor)}, tensors


def _summary(facts: dict[str, Any], tensors: dict[str, Tensor]) -> DataSummary:
    values = _with_tuples(facts)
    bulk = {k[11:]: v for k, v in tensors.items() if k.startswith("pseudobulk.")}
    values["pseudobulk"] = Pseudobulk(**bulk) if bulk else None
    return DataSummary(**values | {k[8:]: v for k, v in tensors.items() if k.startswith("summary.")})


def _write(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    path = Path(path)
    held = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror}); choose a folder that exists and has room."
        ) from error
    try:
        save_file(held, unfinished, metadata={"samslib": json.dumps({"format": FORMAT} | facts)})
        os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} could not be written ({error}); what was there before is untouched.") from error
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path}; give the path that samslib.save returned.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("samslib", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); save it again.") from error
    if facts.get("kind") != kind or facts.get("format") != FORMAT:
        raise ValueError(f"{path} is no samslib {kind} file of format {FORMAT}.")
    return tensors, facts
