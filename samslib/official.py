"""The published implementation's configurations and parameter names, mapped to ours.

`model(config, state)` opens one of its checkpoints. Only names are shared with that code base (insitro/sams-vae): the
library itself was written from the paper's equations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samslib.cells import DataSummary
from samslib.model import Model
from samslib.models import CPAVAE, SAMSVAE, BetaBernoulliSAMSVAE, ConditionalVAE, SVAEPlus

LIKELIHOODS = {
    "library_nb": "negative_binomial",
    "poisson": "poisson",
    "normal": "normal",
    "normal_fixed_variance": "normal_fixed_variance",
}

NORMALIZATIONS = {"log_standardize": "log", "standardize": "raw", None: None}

ENCODERS = {"z_basal": "z_basal_encoder", "z": "z_encoder"}

# Constants that the keywords also say.
IGNORED = r"guide\.(treatment_one_hot|gs_temperature)|model\.(p_|mask_beta_concentration_)\w+"

# Ours -> theirs, in this order, as regular expressions over whole parameter names.
NAMES = [
    (r"(.*)\.trunk\.layers\.(\d+)\.", r"\1.mlp.layers.\2.0."),
    (r"decoder\.logits\.", "decoder.normalized_mean_decoder.0."),
    (r"decoder\.rate\.", "decoder.rate_decoder.0."),
    (r"decoder\.log_var$", "decoder.log_var_encoder.log_var"),
    (r"(decoder|encoder|embedding)\.net\.", r"\1."),
    (r"(decoder|encoder|embedding)\.(mean|log_var)\.", r"\1.\2_encoder."),
    (r"^decoder\.", "model.decoder."),
    (r"^encoder\.normalize\.mean$", "guide.normalization_module.{log}mean"),
    (r"^encoder\.normalize\.std$", "guide.normalization_module.{log}scale"),
    (r"^encoder\.", "guide.{encoder}."),
    (r"^embedding$", "model.action_prior_mean"),
    (r"^embedding\.(loc|log_scale)$", r"guide.param_dict.q_E_\1"),
    (r"^embedding\.", "guide.embedding_encoder."),
    (r"^mask_logits$", "guide.param_dict.q_mask_logits"),
    (r"^mask_log_(alpha|beta)$", r"guide.param_dict.q_mask_probs_\1"),
]

LOGARITHMS = ("mask_log_alpha", "mask_log_beta")  # kept as logarithms by us, as they are by the published code

# Keyword of theirs -> ours; a keyword listed with None only repeats a size that the state already tells.
_SIZES = {"n_latent": None, "n_treatments": None, "n_phenos": None, "x_normalization_stats": None}

_PLAIN_MODEL = _SIZES | {
    "likelihood_key": "likelihood",
    "decoder_n_layers": "decoder_layers",
    "decoder_n_hidden": "decoder_width",
}

_MODEL = _PLAIN_MODEL | {"embedding_prior_scale": "embedding_scale"}

_BETA = {"mask_prior_alpha": "mask_alpha", "mask_prior_beta": "mask_beta"}

_ENCODER = _SIZES | {
    "encoder_n_layers": "encoder_layers",
    "encoder_n_hidden": "encoder_width",
    "encoder_input_normalization": "normalization",
}

_BASAL = _SIZES | {
    "basal_encoder_n_layers": "encoder_layers",
    "basal_encoder_n_hidden": "encoder_width",
    "basal_encoder_input_normalization": "normalization",
    "mean_field_encoder": "encoder_offset",
}

_TABLE = {"embedding_loc_init_scale": "embedding_initial_spread", "embedding_scale_init": "embedding_initial_scale"}

_NETWORK = {"embedding_encoder_n_layers": "embedding_layers", "embedding_encoder_n_hidden": "embedding_width"}

_MASK = {"mask_init_logits": "mask_initial_logit", "gs_temperature": "temperature"}

_BETA_MASK = {
    "mask_probs_init_alpha": "mask_initial_alpha",
    "mask_probs_init_beta": "mask_initial_beta",
    "gs_temperature": "temperature",
}

_TRANSLATE: dict[str, Callable[[Any], Any]] = {
    "likelihood_key": lambda v: LIKELIHOODS.get(v, "negative_binomial"),  # any other key was a count likelihood
    "basal_encoder_input_normalization": NORMALIZATIONS.__getitem__,
    "encoder_input_normalization": NORMALIZATIONS.__getitem__,
    "mean_field_encoder": lambda v: not v,
}

# (model class, guide class) of theirs -> our class, keywords of model and of guide, options the pair implies.
CLASSES: dict[tuple[str, str], tuple[type[Model], dict, dict, dict]] = {
    ("SAMSVAEModel", "SAMSVAEMeanFieldNormalGuide"): (
        SAMSVAE, _MODEL | {"mask_prior_prob": "mask_prior"}, _BASAL | _TABLE | _MASK, {"posterior": "mean_field"},
    ),
    ("SAMSVAEModel", "SAMSVAECorrelatedNormalGuide"): (
        SAMSVAE, _MODEL | {"mask_prior_prob": "mask_prior"}, _BASAL | _NETWORK | _MASK, {"posterior": "correlated"},
    ),
    ("CPAVAEModel", "CPAVAENormalGuide"): (CPAVAE, _MODEL, _BASAL | _TABLE, {}),
    ("SAMSVAEBetaBernoulliModel", "SAMSVAEBetaBernoulliCorrelatedBernoulliNormalGuide"): (
        BetaBernoulliSAMSVAE, _MODEL | _BETA, _BASAL | _NETWORK | _MASK, {"posterior": "correlated"},
    ),
    ("SAMSVAEBetaBernoulliModel", "SAMSVAEBetaBernoulliMeanFieldBernoulliNormalGuide"): (
        BetaBernoulliSAMSVAE, _MODEL | _BETA, _BASAL | _TABLE | _MASK, {"posterior": "mean_field"},
    ),
    ("SAMSVAEBetaBernoulliModel", "SAMSVAEBetaBernoulliMeanFieldBetaBernoulliNormalGuide"): (
        BetaBernoulliSAMSVAE, _MODEL | _BETA, _BASAL | _TABLE | _BETA_MASK,
        {"posterior": "mean_field", "mask_posterior": "beta"},
    ),
    ("SVAEPlusModel", "SVAEPlusGuide"): (
        SVAEPlus, _PLAIN_MODEL | {"mask_beta_concentration_1": "mask_alpha", "mask_beta_concentration_2": "mask_beta"},
        _ENCODER | _MASK, {},
    ),
    ("ConditionalVAEModel", "ConditionalVAEGuide"): (ConditionalVAE, _PLAIN_MODEL, _ENCODER, {}),
}  # fmt: skip

# Constant tables of a state -> the option that says the same.
CONSTANTS = {
    "model.p_E_scale": "embedding_scale",
    "model.p_mask_probs": "mask_prior",
    "model.p_mask_probs_alpha": "mask_alpha",
    "model.p_mask_probs_beta": "mask_beta",
    "model.mask_beta_concentration_1": "mask_alpha",
    "model.mask_beta_concentration_2": "mask_beta",
}


def parameter_names(model: Model) -> dict[str, str]:
    """Our parameter and buffer names -> the published ones."""
    log = "log_" if model.options["normalization"] == "log" else ""
    encoder = ENCODERS["z" if isinstance(model, SVAEPlus | ConditionalVAE) else "z_basal"]
    names = {}
    for ours in model.state_dict():
        theirs = ours
        for pattern, replacement in NAMES:
            theirs = re.sub(pattern, replacement, theirs)
        names[ours] = theirs.format(log=log, encoder=encoder)
    return names


def model(config: Mapping[str, Any], state: Mapping[str, Any], summary: DataSummary | None = None) -> Model:
    """Our model with the weights of a published one.

    Parameters
    ----------
    config
        "model" and "guide" (class names) with "model_kwargs" and "guide_kwargs", as in the published configuration
        files.
    state
        name -> array: the model's and the guide's parameters and buffers, with or without prefixes such as a Lightning
        checkpoint's "loss_module.".
    summary
        Names of genes and perturbations; None numbers them.

    Returns
    -------
    The model, of the floating-point type of the state.

    Raises
    ------
    ValueError
        For classes or keywords that are not known, and for a state that lacks or adds a parameter.
    """
    arrays = _plain(state)
    pair = (config["model"], config["guide"])
    if pair not in CLASSES:
        raise ValueError(f"{pair} is no known pair of model and guide; known are {sorted(CLASSES)}.")
    ours, model_names, guide_names, implied = CLASSES[pair]
    latent, treatments = _sizes(arrays)
    options = implied | {"latent": latent}
    for part, names in (("model_kwargs", model_names), ("guide_kwargs", guide_names)):
        for key, value in (config.get(part) or {}).items():
            if key not in names:
                raise ValueError(
                    f"{part} has {key!r}, which {config[part.split('_')[0]]} does not take: {sorted(names)}."
                )
            if names[key] is not None:
                options[names[key]] = _TRANSLATE.get(key, lambda v: v)(value)
    required = {n for n in model_names.values() if n} - set(options)
    if required:
        raise ValueError(f"model_kwargs says nothing of {sorted(required)}; the published classes need these keywords.")
    for name, option in CONSTANTS.items():
        if name in arrays:
            options[option] = _constant(name, arrays[name], options[option])
    if "guide.gs_temperature" in arrays:
        options["temperature"] = arrays["guide.gs_temperature"].item()
    built = ours(summary or _anonymous(arrays, treatments), **options).to(_encoder_mean(arrays).dtype)
    names = parameter_names(built)
    if missing := sorted(set(names.values()) - set(arrays)):
        raise ValueError(f"The state lacks {missing}; are the keywords those that the checkpoint was trained with?")
    if extra := sorted(k for k in set(arrays) - set(names.values()) if not re.fullmatch(IGNORED, k)):
        raise ValueError(f"The state has {extra}, for which {ours.__name__} with these keywords has no place.")
    _check_shapes(built, names, arrays)
    values = {mine: arrays[theirs] for mine, theirs in names.items()}
    for mine in set(LOGARITHMS) & set(values):
        if not bool((values[mine] > 0).all()):
            raise ValueError(f"{names[mine]} has entries that are not positive, which no Beta distribution takes.")
        values[mine] = values[mine].log()
    built.load_state_dict(values)
    return built


def _plain(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state with every name cut to 'model. ...' or 'guide. ...'; copies under several prefixes must agree."""
    arrays: dict[str, Tensor] = {}
    for name, value in state.items():
        found = re.search(r"(?:^|\.)((?:model|guide)\..+)$", name)
        if not found:
            continue
        tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
        key = found[1]
        if key in arrays and not torch.equal(arrays[key], tensor):
            raise ValueError(f"The state holds two different values of {key}; pass one checkpoint at a time.")
        arrays[key] = tensor
    return arrays


def _encoder_mean(arrays: Mapping[str, Tensor]) -> Tensor:
    """(K,) the bias of the encoder's mean, which every published model has."""
    names = [f"guide.{encoder}.mean_encoder.bias" for encoder in ENCODERS.values()]
    if not (found := [arrays[name] for name in names if name in arrays]):
        raise ValueError(f"The state has neither of {names}; give a published model's state dict.")
    return found[0]


def _sizes(arrays: Mapping[str, Tensor]) -> tuple[int, int]:
    """(K, T): latent axes and treatments; only the conditional VAE's decoder tells T by its width alone."""
    latent = len(_encoder_mean(arrays))
    tables = [arrays[name] for name in ("model.p_E_loc", "model.action_prior_mean") if name in arrays]
    if tables:
        return latent, len(tables[0])
    name = "model.decoder.mlp.layers.0.0.weight"
    if name not in arrays:
        raise ValueError(f"The state lacks '{name}'; give a published model's state dict.")
    return latent, arrays[name].shape[1] - latent


def _constant(name: str, tensor: Tensor, option: float) -> float:
    value = tensor.flatten()[0].item()
    if not bool((tensor == value).all()) or abs(value - option) > 1e-6 * abs(option):
        raise ValueError(f"{name} of the state is not the constant {option} that the keywords say.")
    return value


def _check_shapes(built: Model, names: Mapping[str, str], arrays: Mapping[str, Tensor]) -> None:
    for mine, tensor in built.state_dict().items():
        if tensor.shape != arrays[names[mine]].shape:
            raise ValueError(
                f"{names[mine]} has shape {tuple(arrays[names[mine]].shape)}, but these keywords make it "
                f"{tuple(tensor.shape)}; are they those that the checkpoint was trained with?"
            )


def _anonymous(arrays: Mapping[str, Tensor], treatments: int) -> DataSummary:
    heads = ("normalized_mean_decoder.0.bias", "rate_decoder.0.bias", "mean_encoder.bias")
    genes = next(len(arrays[f"model.decoder.{h}"]) for h in heads if f"model.decoder.{h}" in arrays)
    zero, one = torch.zeros(genes), torch.ones(genes)
    return DataSummary(
        genes=tuple(f"gene_{i}" for i in range(genes)),
        perturbations=tuple(f"treatment_{i}" for i in range(treatments)),
        covariates=(), quality=(), n_cells=0, n_treated=(0,) * treatments, n_flagged=(),
        mean=zero, std=one, log_mean=zero, log_std=one,
    )  # fmt: skip
