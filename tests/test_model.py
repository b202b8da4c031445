from __future__ import annotations

import inspect

from samslib import BASELINES, MODELS
from samslib.model import Model


def test_models_are_final_and_override_nothing(model):
    """A class is abstract or final: a model fills in the abstract methods and replaces no concrete one."""
    bases = type(model).__mro__[: type(model).__mro__.index(Model)]
    assert all(inspect.isabstract(base) for base in bases[1:])
    for kind in bases:
        own = {n for n, v in vars(kind).items() if inspect.isfunction(v)} - {"__init__"}
        above = kind.__mro__[1]
        assert not (own - above.__abstractmethods__) & set(dir(above))


def test_options_are_those_given(model):
    assert model.options.get("latent", 3) == 3 and "summary" not in model.options
    assert set(model.options) == set(inspect.signature(type(model)).parameters) - {"summary"}


def test_every_model_says_its_source():
    assert all(kind.source and kind.__doc__ for kind in (MODELS | BASELINES).values())
