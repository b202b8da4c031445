from __future__ import annotations

import inspect
import json

import pytest

from samslib import MODELS
from samslib.model import Adversarial, Model, choose


def test_models_are_final_and_override_nothing(model):
    """A class is abstract or final: a model fills in the abstract methods and replaces no concrete one."""
    own = {n for n, v in vars(type(model)).items() if inspect.isfunction(v)} - {"__init__"}
    base = type(model).__mro__[1]
    assert base in (Model, Adversarial)
    assert own >= base.__abstractmethods__
    assert not (own - base.__abstractmethods__) & set(dir(base))


def test_options_are_those_given_and_can_be_written(model):
    assert model.options["latent"] == 3 and "summary" not in model.options
    assert json.loads(json.dumps(model.options)) == model.options
    assert set(model.options) == set(inspect.signature(type(model)).parameters) - {"summary"}


def test_every_model_says_its_source():
    assert all(kind.source and kind.__doc__ for kind in MODELS.values())


def test_choose():
    assert choose("x", "a", {"a": 1}) == 1 and choose("x", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="x is 'c'; choose one of \\['a', 'b'\\]"):
        choose("x", "c", ("a", "b"))
