"""The published implementation's configurations and parameter names, mapped to ours.

`model(config, state)` opens one of its checkpoints. Only names are shared with that code base (insitro/sams-vae): the
library itself was written from the paper's equations.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samslib import models
from samslib.cells import DataSummary
from samslib.model import Model
from samslib.validation import require

PUBLISHED = tomllib.loads(Path(__file__).with_name("official.toml").read_text(encoding="utf-8"))

LIKELIHOODS, KEYWORDS = PUBLISHED["likelihoods"], PUBLISHED["keywords"]

CLASSES = {(known["model"], known["guide"]): known for known in PUBLISHED["classes"]}

LOGARITHMS = ("mask_log_alpha", "mask_log_beta")  # kept as logarithms by us, as they are by the published code

SIZES = ("n_latent", "n_treatments", "n_phenos", "x_normalization_stats")  # keywords that repeat what the state tells

# Options of ours that their model classes set by keywords without a default, as far as a class has them.
REQUIRED = "likelihood decoder_layers decoder_width embedding_scale mask_prior mask_alpha mask_beta".split()

TRANSLATE: dict[str, Callable[[Any], Any]] = {  # our option -> its value from theirs
    "likelihood": lambda v: LIKELIHOODS.get(v, "negative_binomial"),  # any other key was a count likelihood
    "normalization": {"log_standardize": "log", "standardize": "raw", None: None}.__getitem__,
    "encoder_offset": lambda v: not v,
}


def parameter_names(model: Model) -> dict[str, str]:
    """Our parameter and buffer names -> the published ones."""
    log = "log_" if model.options["normalization"] == "log" else ""
    encoder = "z_encoder" if isinstance(model, models.SVAEPlus | models.ConditionalVAE) else "z_basal_encoder"
    names = {}
    for ours in model.state_dict():
        theirs = ours
        for pattern, replacement in PUBLISHED["parameters"]:
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
    bias = _first(arrays, "guide.z_basal_encoder.mean_encoder.bias", "guide.z_encoder.mean_encoder.bias")  # (K,)
    kind, options = _options(config, arrays)
    options["latent"] = len(bias)
    built = kind.paper(summary or _anonymous(arrays, len(bias)), **options).to(bias.dtype)
    names = parameter_names(built)
    missing = sorted(set(names.values()) - set(arrays))
    require(not missing, f"The state lacks {missing}; are the keywords those that the checkpoint was trained with?")
    extra = sorted(k for k in set(arrays) - set(names.values()) if not re.fullmatch(PUBLISHED["ignored"], k))
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
    kind = getattr(models, CLASSES[pair]["ours"])
    takes = [key for key, ours in KEYWORDS.items() if kind.accepted({ours: None})]
    options: dict[str, Any] = dict(CLASSES[pair]["options"])
    for part in ("model", "guide"):
        given = {key: value for key, value in (config.get(f"{part}_kwargs") or {}).items() if key not in SIZES}
        for key, value in given.items():
            plain = key.removeprefix("basal_")
            require(plain in takes, f"{part}_kwargs has {key!r}, which {config[part]} does not take: {takes}.")
            ours = KEYWORDS[plain]
            options[ours] = TRANSLATE[ours](value) if ours in TRANSLATE else value
    lacking = sorted(kind.accepted(dict.fromkeys(REQUIRED)).keys() - options)
    require(not lacking, f"model_kwargs says nothing of {lacking}; the published classes need these keywords.")
    for name, option in PUBLISHED["constants"].items():
        if name in arrays:
            said, options[option] = options[option], arrays[name].flatten()[0].item()
            same = torch.isclose(arrays[name].double(), torch.tensor(said).double(), rtol=1e-6, atol=0).all()
            require(same, f"{name} of the state is not the constant {said} that the keywords say.")
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
