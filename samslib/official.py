"""The published implementation's configurations and parameter names, mapped to ours.

`model(config, state)` opens one of its checkpoints. Only names are shared with that code base (insitro/sams-vae): the
library itself was written from the paper's equations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from samslib.cells import DataSummary
from samslib.model import Model
from samslib.models import CPAVAE, SAMSVAE, BetaBernoulliSAMSVAE, ConditionalVAE, SVAEPlus
from samslib.validation import require

LIKELIHOODS = {"library_nb": "negative_binomial"} | {k: k for k in ("poisson", "normal", "normal_fixed_variance")}

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

# Keyword of theirs -> our option, for their models and guides alike; some guides' begin with "basal_".
KEYWORDS = {
    "likelihood_key": "likelihood",
    "decoder_n_layers": "decoder_layers",
    "decoder_n_hidden": "decoder_width",
    "embedding_prior_scale": "embedding_scale",
    "mask_prior_prob": "mask_prior",
    "mask_prior_alpha": "mask_alpha",
    "mask_prior_beta": "mask_beta",
    "mask_beta_concentration_1": "mask_alpha",
    "mask_beta_concentration_2": "mask_beta",
    "encoder_n_layers": "encoder_layers",
    "encoder_n_hidden": "encoder_width",
    "encoder_input_normalization": "normalization",
    "mean_field_encoder": "encoder_offset",
    "embedding_loc_init_scale": "embedding_initial_spread",
    "embedding_scale_init": "embedding_initial_scale",
    "embedding_encoder_n_layers": "embedding_layers",
    "embedding_encoder_n_hidden": "embedding_width",
    "mask_init_logits": "mask_initial_logit",
    "mask_probs_init_alpha": "mask_initial_alpha",
    "mask_probs_init_beta": "mask_initial_beta",
    "gs_temperature": "temperature",
}

SIZES = ("n_latent", "n_treatments", "n_phenos", "x_normalization_stats")  # keywords that repeat what the state tells

# Options of ours that their model classes set by keywords without a default, as far as a class has them.
REQUIRED = "likelihood decoder_layers decoder_width embedding_scale mask_prior mask_alpha mask_beta".split()

TRANSLATE: dict[str, Callable[[Any], Any]] = {  # our option -> its value from theirs
    "likelihood": lambda v: LIKELIHOODS.get(v, "negative_binomial"),  # any other key was a count likelihood
    "normalization": NORMALIZATIONS.__getitem__,
    "encoder_offset": lambda v: not v,
}

BETA = "SAMSVAEBetaBernoulli"
TABLE, NETWORK, BETA_MASK = {"posterior": "mean_field"}, {"posterior": "correlated"}, {"mask_posterior": "beta"}

# (model class, guide class) of theirs -> our class, and the options that the pair implies.
CLASSES: dict[tuple[str, str], tuple[type[Model], dict[str, str]]] = {
    ("SAMSVAEModel", "SAMSVAEMeanFieldNormalGuide"): (SAMSVAE, TABLE),
    ("SAMSVAEModel", "SAMSVAECorrelatedNormalGuide"): (SAMSVAE, NETWORK),
    ("CPAVAEModel", "CPAVAENormalGuide"): (CPAVAE, {}),
    (f"{BETA}Model", f"{BETA}CorrelatedBernoulliNormalGuide"): (BetaBernoulliSAMSVAE, NETWORK),
    (f"{BETA}Model", f"{BETA}MeanFieldBernoulliNormalGuide"): (BetaBernoulliSAMSVAE, TABLE),
    (f"{BETA}Model", f"{BETA}MeanFieldBetaBernoulliNormalGuide"): (BetaBernoulliSAMSVAE, TABLE | BETA_MASK),
    ("SVAEPlusModel", "SVAEPlusGuide"): (SVAEPlus, {}),
    ("ConditionalVAEModel", "ConditionalVAEGuide"): (ConditionalVAE, {}),
}

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
    bias = _first(arrays, *(f"guide.{encoder}.mean_encoder.bias" for encoder in ENCODERS.values()))  # (K,)
    kind, options = _options(config, arrays)
    options["latent"] = len(bias)
    built = kind.paper(summary or _anonymous(arrays, len(bias)), **options).to(bias.dtype)
    names = parameter_names(built)
    missing = sorted(set(names.values()) - set(arrays))
    require(not missing, f"The state lacks {missing}; are the keywords those that the checkpoint was trained with?")
    extra = sorted(k for k in set(arrays) - set(names.values()) if not re.fullmatch(IGNORED, k))
    require(not extra, f"The state has {extra}, for which {kind.__name__} with these keywords has no place.")
    values = {mine: arrays[theirs] for mine, theirs in names.items()}
    for mine in set(LOGARITHMS) & set(values):
        text = f"{names[mine]} has entries that are not positive, which no Beta distribution takes."
        require((values[mine] > 0).all(), text)
        values[mine] = values[mine].log()
    try:
        built.load_state_dict(values)
    except RuntimeError as error:  # a shape
        raise ValueError(f"{error}; are the keywords those that the checkpoint was trained with?") from error
    return built


def _options(config: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> tuple[type[Model], dict[str, Any]]:
    """Our class, and all of its options but the latent size, as configuration and constant tables agree on them."""
    pair = (config["model"], config["guide"])
    require(pair in CLASSES, f"{pair} is no known pair of model and guide; known are {sorted(CLASSES)}.")
    kind, implied = CLASSES[pair]
    takes = [key for key, ours in KEYWORDS.items() if kind.accepted({ours: None})]
    options: dict[str, Any] = dict(implied)
    for part in ("model", "guide"):
        given = {key: value for key, value in (config.get(f"{part}_kwargs") or {}).items() if key not in SIZES}
        for key, value in given.items():
            plain = key.removeprefix("basal_")
            require(plain in takes, f"{part}_kwargs has {key!r}, which {config[part]} does not take: {takes}.")
            ours = KEYWORDS[plain]
            options[ours] = TRANSLATE[ours](value) if ours in TRANSLATE else value
    lacking = sorted(kind.accepted(dict.fromkeys(REQUIRED)).keys() - options)
    require(not lacking, f"model_kwargs says nothing of {lacking}; the published classes need these keywords.")
    for name, option in CONSTANTS.items():
        if name in arrays:
            options[option] = _constant(name, arrays[name], options[option])
    if "guide.gs_temperature" in arrays:
        options["temperature"] = arrays["guide.gs_temperature"].item()
    return kind, options


def _plain(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state with every name cut to 'model. ...' or 'guide. ...'; copies under several prefixes must agree."""
    arrays: dict[str, Tensor] = {}
    for name, value in state.items():
        if found := re.search(r"(?:^|\.)((?:model|guide)\..+)$", name):
            key, tensor = found[1], torch.as_tensor(value)
            same = key not in arrays or torch.equal(arrays[key], tensor)
            require(same, f"The state holds two different values of {key}; pass one checkpoint at a time.")
            arrays[key] = tensor
    return arrays


def _first(arrays: Mapping[str, Tensor], *names: str) -> Tensor:
    """The first of these that the state holds."""
    found = [arrays[name] for name in names if name in arrays]
    require(found, f"The state lacks {' and '.join(map(repr, names))}; give a published model's state dict.")
    return found[0]


def _constant(name: str, tensor: Tensor, option: float) -> float:
    value = tensor.flatten()[0].item()
    if not bool((tensor == value).all()) or abs(value - option) > 1e-6 * abs(option):
        raise ValueError(f"{name} of the state is not the constant {option} that the keywords say.")
    return value


def _anonymous(arrays: Mapping[str, Tensor], latent: int) -> DataSummary:
    """As many genes and treatments as the state has; of the conditional VAE only the decoder's width tells."""
    first = "model.decoder.mlp.layers.0.0.weight"
    table = _first(arrays, "model.p_E_loc", "model.action_prior_mean", first)
    treatments = table.shape[1] - latent if table is arrays.get(first) else len(table)
    heads = ("normalized_mean_decoder.0", "rate_decoder.0", "mean_encoder")
    genes = len(_first(arrays, *(f"model.decoder.{head}.bias" for head in heads)))
    zero, one = torch.zeros(genes), torch.ones(genes)
    return DataSummary(
        genes=tuple(f"gene_{i}" for i in range(genes)),
        perturbations=tuple(f"treatment_{i}" for i in range(treatments)),
        covariates=(), quality=(), n_cells=0, n_treated=(0,) * treatments, n_flagged=(),
        mean=zero, std=one, log_mean=zero, log_std=one,
    )  # fmt: skip
