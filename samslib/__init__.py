"""samslib: sparse additive mechanism shift models of cellular perturbations, and their family, in PyTorch."""

from samslib import book, datasets, interpret, official, plotting, predictive, quality, simulate, splits
from samslib.alignment import align
from samslib.cells import Batch, Condition, DataSummary, Plate
from samslib.checkpoint import load, save
from samslib.data import PerturbationData
from samslib.data_only import predictors
from samslib.effects import average_effects, counterfactual, latents, sample_cells
from samslib.evaluate import bound_by_particles, bound_spread, held_out_iwelbo
from samslib.models import (
    BASELINES,
    CPA,
    CPAVAE,
    CRADLEVAE,
    MODELS,
    SAMSVAE,
    BetaBernoulliSAMSVAE,
    ConditionalVAE,
    SVAEPlus,
)
from samslib.observed import data_effects
from samslib.predictive import predictive_check
from samslib.scores import cell_scores, effect_scores, interaction_classes, interactions, noise_ceiling, score_table
from samslib.training import FitConfig, History, fit
from samslib.uncertainty import distance_to_training

__version__ = "0.1.0"

__all__ = [
    "BASELINES",
    "CPA",
    "CPAVAE",
    "CRADLEVAE",
    "MODELS",
    "SAMSVAE",
    "Batch",
    "BetaBernoulliSAMSVAE",
    "Condition",
    "ConditionalVAE",
    "DataSummary",
    "FitConfig",
    "History",
    "PerturbationData",
    "Plate",
    "SVAEPlus",
    "align",
    "average_effects",
    "bound_by_particles",
    "bound_spread",
    "book",
    "cell_scores",
    "counterfactual",
    "data_effects",
    "effect_scores",
    "noise_ceiling",
    "predictors",
    "score_table",
    "datasets",
    "distance_to_training",
    "fit",
    "held_out_iwelbo",
    "interaction_classes",
    "interactions",
    "interpret",
    "latents",
    "load",
    "official",
    "plotting",
    "predictive",
    "predictive_check",
    "quality",
    "sample_cells",
    "save",
    "simulate",
    "splits",
]
