from __future__ import annotations

import inspect
import re

import anndata
import pandas as pd
import pytest
import torch
from conftest import ROOT, SMALL, make_data

from samslib import BASELINES, MODELS, training
from samslib.model import Model


def test_models_are_final_and_override_nothing(model):
    """A class is abstract or final: a model fills in the abstract methods and the hooks that training asks, and
    replaces no other."""
    hooks = {"likelihood_weights", "penalty", "advance", "settled"}
    bases = type(model).__mro__[: type(model).__mro__.index(Model)]
    assert all(inspect.isabstract(base) for base in bases[1:])
    for kind in bases:
        own = {n for n, v in vars(kind).items() if inspect.isfunction(v)} - {"__init__"}
        above = kind.__mro__[1]
        assert not (own - above.__abstractmethods__ - hooks) & set(dir(above))


def test_options_are_those_given(model):
    assert model.options.get("latent", 3) == 3 and "summary" not in model.options
    assert set(model.options) == set(inspect.signature(type(model)).parameters) - {"summary"}


def test_every_model_says_its_source():
    assert all(kind.source and kind.__doc__ for kind in (MODELS | BASELINES).values())


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", sorted(n for n, kind in (MODELS | BASELINES).items() if kind.accepted({"seed": 0})))
def test_a_seed_draws_the_initial_weights_and_nothing_else(name):
    """The same seed, the same weights, whatever was drawn before; no seed, those of the global stream, which a seed
    leaves alone."""
    kind = (MODELS | BASELINES)[name]
    summary = training.prepare(kind, make_data()).summary(pseudobulk=True)

    def made(draws: int, **seed):
        torch.manual_seed(draws)
        return kind(summary, **kind.accepted(SMALL), **seed)

    first = made(5, seed=0)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), after)
    assert same_weights(first, made(6, seed=0)) and not same_weights(first, made(5, seed=1))
    assert same_weights(first, made(0)) and not same_weights(made(0), made(1))
    with pytest.raises(ValueError, match="seed is 0.5; it must be a whole number"):
        made(0, seed=0.5)


def test_the_lines_of_the_readme_give_the_same_numbers_twice(monkeypatch):
    """Nothing in them depends on the random stream that the process happens to be at."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "samslib.fit" in b)
    lines = [line for line in block.splitlines() if line and not line.startswith(("samslib.save", "adata.obsm"))]
    quick = "fit(model, train, val, samslib.FitConfig(steps=3, progress=False))"
    code = "\n".join(lines).replace("fit(model, train, val)", quick).replace('["KLF1+MAP2K6"]', '["A+B"], 20')
    assert quick in code
    adata = anndata.AnnData(make_data().x, obs=pd.DataFrame({"perturbation": make_data().labels}))
    found = []
    for stream in (1, 2):
        torch.manual_seed(stream)
        here: dict = {"adata": adata}
        exec(code, here)
        found.append(here["model"])
    assert same_weights(*found)


@pytest.mark.parametrize("kind", [MODELS[name] for name in ("sams_vae", "cpa_vae", "svae_plus", "conditional_vae")])
@pytest.mark.parametrize("size", ["latent", "encoder_width", "decoder_width"])
@pytest.mark.parametrize("wrong", [0, -1, 2.5, "a", float("nan")])
def test_a_size_that_is_no_whole_number_is_named(kind, size, wrong):
    with pytest.raises(ValueError, match=size):
        kind(make_data().summary(), **{"latent": 3, size: wrong})
