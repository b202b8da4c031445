"""One pass of the published implementation, repeated by the library draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samslib import official
from samslib.cells import Batch, Condition, Plate
from samslib.models import SVAEPlus
from samslib.objective import elbo, iwelbo, log_weights, plate_weights
from samslib.trace import Trace

VARIABLES = {"M": "mask", "E": "E", "z_basal": "z_basal", "z": "z", "pi": "mask_probs"}  # ours -> theirs

SINGULAR = {"pi": "mask_prob"}  # what its SVAE+ calls the same


def replay(entry: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Repeat one pass of the published implementation and return all its numbers under its own names.

    entry: one entry of the golden index; arrays: its file's arrays (`in/...`, `param/...`, `sample/...`). Returns
    `logp/...`, `logq/...` (P, rows, K or G), `reweighted/...`, `elbo_term/...`, `elbo` (P, n), `elbo_cell`,
    `iwelbo_train_cell`, `iwelbo_predictive_cell` (n,), `loss`, `iwelbo_train_loss`, the laws' parameters `p_x/...` and
    `q_.../...`, and `grad/<official parameter name>`, the gradient of `loss`.
    """
    built = official.model(entry, {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")})
    dtype = next(built.parameters()).dtype
    tensor = {k: torch.as_tensor(np.asarray(v)) for k, v in arrays.items()}
    b = batch_of(tensor, dtype)
    counts = {Plate.DOSE: tensor["in/D_obs_counts"].to(dtype)}
    draws = {k.split("/")[1]: v for k, v in tensor.items() if k.startswith("sample/")}
    draws |= {k.split("/")[1]: v for k, v in tensor.items() if k.startswith("sample_logit_soft/")}

    variables = VARIABLES | (SINGULAR if isinstance(built, SVAEPlus) else {})
    q = Trace(int(entry["n_particles"]), replay={ours: draws[v] for ours, v in variables.items() if v in draws})
    built.infer_shared(q)
    built.infer_cells(q, b)
    p = Trace(q.particles, given=q.values)
    likelihood = built.generate(p, b.condition)
    terms = log_weights(built, b, q, counts)

    out: dict[str, Tensor] = {"logp/x": likelihood.log_prob(b.x), "elbo_term/reconstruction": terms["x"]}
    out |= {f"p_x/{k}": v for k, v in _law(likelihood, ("concentration", "rate", "loc", "scale")).items()}
    out["p_x/mean"] = likelihood.mean
    if "p_x/concentration" in out:
        out["p_x/concentration"] = out["p_x/concentration"].expand_as(likelihood.mean)
        out["p_x/rate"] = out["p_x/concentration"] / likelihood.mean
    shared = [site for site in q.sites.values() if site.plate is not Plate.CELL]
    for name, site in q.sites.items():
        key = variables[name]
        out[f"logp/{key}"], out[f"logq/{key}"] = p.sites[name].log_prob, site.log_prob
        out[f"elbo_term/{key}"] = terms[name]
        law = _law(site.distribution, ("loc", "scale"))
        if site.plate is Plate.CELL and shared:
            law = {k: v.expand_as(site.value) for k, v in law.items()}
        elif site.plate is not Plate.CELL:
            weights = plate_weights(b, site.plate, counts[site.plate])
            out[f"reweighted/{key}"] = weights @ (p.sites[name].log_prob - site.log_prob)
        out |= {f"q_{key}/{k}": v for k, v in law.items()}
    if "M" in q.sites:
        out["q_mask/probs"] = q.sites["M"].distribution.mean
    out["elbo"] = torch.stack(list(terms.values())).sum(0)
    out["elbo_cell"], out["iwelbo_train_cell"] = elbo(terms), iwelbo(terms)
    out["iwelbo_predictive_cell"] = iwelbo(log_weights(built, b, q))
    out["loss"], out["iwelbo_train_loss"] = -elbo(terms).mean(), -iwelbo(terms).mean()
    names = official.parameter_names(built)
    parameters = dict(built.named_parameters())
    gradients = torch.autograd.grad(out["loss"], list(parameters.values()), allow_unused=True)
    for mine, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            scale = parameters[mine].exp() if mine in official.LOGARITHMS else 1  # d/da = (d/d log a) / a
            out[f"grad/{names[mine]}"] = gradient / scale
    return {k: v.detach().cpu().numpy() for k, v in out.items()}


def _law(law: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: getattr(law, name) for name in names if hasattr(law, name)}


def batch_of(tensor: Mapping[str, Tensor], dtype: torch.dtype) -> Batch:
    x, dose = tensor["in/X"].to(dtype), tensor["in/D"].to(dtype)
    nothing = x.new_zeros(len(x), 0)
    return Batch(x, Condition(dose, tensor["in/library_size"].to(dtype).reshape(-1, 1), nothing, nothing))
