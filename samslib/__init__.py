"""samslib: sparse additive mechanism shift models of cellular perturbations, and their family, in PyTorch.

What most people need can be had from here, such as `samslib.fit`. It is imported when it is first asked for, so that
`import samslib` takes no time.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {  # module -> the names that can be had from here
    "alignment": "align",
    "cells": "Batch Condition DataSummary Plate",
    "checkpoint": "load save",
    "data.container": "PerturbationData",
    "evaluate.bounds": "bound_by_particles bound_spread held_out_iwelbo",
    "evaluate.checks": "predictive_check",
    "evaluate.distance": "distance_to_training",
    "evaluate.effects": "average_effects counterfactual counterfactual_cells latents posterior_effects sample_cells",
    "evaluate.intervals": "calibrated_effects ensemble_effects",
    "evaluate.observed": "data_effects",
    "evaluate.predictors": "predictors",
    "evaluate.ranking": "rank_perturbations",
    "evaluate.recovery": "direct_effects dose_curves guide_strengths interaction_table",
    "evaluate.scores": "cell_scores effect_scores interaction_classes interactions noise_ceiling score_table",
    "evaluate.tables": "by_target",
    "models": "BASELINES CPA CPAVAE CRADLEVAE MODELS SAMSVAE BetaBernoulliSAMSVAE ConditionalVAE SVAEPlus",
    "training": "FitConfig History Schedule fit fit_many",
    "validation": "DataError",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}
_MODULES = {  # modules that can be had from here under a shorter name
    "quality": "data.quality",
    "simulate": "datasets.simulate",
    "splits": "data.splits",
}

__all__ = sorted([*_MODULE_OF, *_MODULES, "data", "datasets", "evaluate", "models", "official", "plotting"])


def __getattr__(name: str) -> Any:
    module = f"samslib.{_MODULE_OF.get(name) or _MODULES.get(name, name)}"
    if find_spec(module) is None:
        raise AttributeError(f"module 'samslib' has no attribute {name!r}")
    value = import_module(module)
    value = getattr(value, name) if name in _MODULE_OF else value
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
