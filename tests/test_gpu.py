"""What is computed on a GPU is what is computed on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import GPU, content, make_model

import samslib
from samslib.objective import elbo, log_weights, posterior
from samslib.trace import Trace
from samslib.training import shared_counts

pytestmark = pytest.mark.skipif(not GPU, reason="there is no CUDA GPU")
BOTH = ("cpu", "cuda")


def test_terms_and_gradients_are_those_of_the_cpu(model, data):
    """In double precision, of the same draws: beyond rounding, nothing may depend on the device."""
    model.double()
    b = data.batch(dtype=torch.float64)
    torch.manual_seed(1)
    drawn = {name: value.detach() for name, value in posterior(model, b, 3).values.items()}
    terms, slopes = {}, {}
    for device in BOTH:
        model.to(device).zero_grad()
        here = b.to(torch.device(device))
        q = Trace(3, given={name: value.to(device) for name, value in drawn.items()})
        model.infer_shared(q)
        model.infer_cells(q, here)
        terms[device] = log_weights(model, here, q, shared_counts(data, torch.device(device), torch.float64))
        bound = elbo(terms[device]).mean()
        if bound.requires_grad:  # a closed form has nothing to learn
            bound.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        slopes[device] = {name: grad.cpu().clone() for name, grad in grads.items()}
    for name, value in terms["cpu"].items():
        torch.testing.assert_close(terms["cuda"][name].cpu(), value, rtol=1e-8, atol=1e-8)
    assert slopes["cuda"].keys() == slopes["cpu"].keys()
    for name, grad in slopes["cpu"].items():
        torch.testing.assert_close(slopes["cuda"][name], grad, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore::UserWarning")  # thirty steps train no model, and `fit` says so
def test_a_user_s_way_goes_on_a_gpu(model, data, tmp_path):
    """Fit, go on, save, load there and on the CPU, and the readouts: each is where it should be, finite and the same
    when called again."""
    config = samslib.FitConfig(steps=30, device="cuda", progress=False, validate_every=10)
    history = samslib.fit(model, data, data, config)
    assert history.attrs["device"].startswith("cuda") and np.isfinite(history["val_loss"]).all()
    assert all(p.is_cuda for p in model.parameters())
    path = samslib.save(model, tmp_path / "m.safetensors")
    for again in (samslib.load(path, device="cuda"), samslib.load(path, device="cpu")):
        for (name, a), (other, c) in zip(model.named_parameters(), again.named_parameters(), strict=True):
            assert name == other and torch.equal(a.cpu(), c.cpu())
    effects = [samslib.average_effects(model, data, ["A", "B"], particles=20) for _ in range(2)]
    assert np.isfinite(effects[0].X).all() and content(effects[0]) == content(effects[1])
    bounds = [samslib.held_out_iwelbo(model, data, particles=20) for _ in range(2)]
    assert np.isfinite(bounds[0].select_dtypes("number")).all(axis=None) and content(bounds[0]) == content(bounds[1])
    assert all(np.isfinite(values).all() for values in samslib.latents(model, data).values())


@pytest.mark.filterwarnings("ignore::UserWarning")  # as above
def test_readouts_are_those_of_the_cpu(data):
    """The same weights on both devices, whose draws differ: so many of them that means agree within a tenth."""
    model, found = make_model("sams_vae", data.summary()), {}
    samslib.fit(model, data, None, samslib.FitConfig(steps=300, device="cpu", progress=False, keep="last"))
    for device in BOTH:
        model.to(device)
        found[device] = {
            "latents": samslib.latents(model, data, particles=1000)["z_basal"],
            "effects": np.asarray(samslib.average_effects(model, data, ["A", "B"], particles=2000).X),
            "bound": samslib.held_out_iwelbo(model, data, particles=200).select_dtypes("number").mean().to_numpy(),
        }
    for name, value in found["cpu"].items():
        np.testing.assert_allclose(found["cuda"][name], value, atol=0.1 * np.abs(value).max())


def test_resuming_on_a_gpu_goes_on_where_it_ended(data, tmp_path):
    """Cut off after 20 of 40 steps. Sums on a GPU may be taken in any order, so equal to rounding, not to the bit."""

    def train(folder, steps):
        model = make_model("sams_vae", data.summary(), dense_start=0.0)
        config = samslib.FitConfig(
            steps=steps, device="cuda", progress=False, validate_every=10, keep="last", decay=0.0,
            checkpoints=folder and tmp_path / folder,
        )  # fmt: skip
        samslib.fit(model, data, None, config)
        return model

    whole = train(None, 40)
    train("part", 20)
    resumed = train("part", 40)
    for a, c in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-4)
