from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from conftest import linear_data
from torch.nn.functional import leaky_relu, one_hot

import samslib
from samslib.models.cpa import PointEncoder
from samslib.nets import DECODERS, CellEncoder, NormalTable, Standardize, Trunk, effect_posterior


def test_a_split_first_layer_is_the_concatenated_one():
    torch.manual_seed(0)
    trunk = Trunk((5, 2, 4), 6, 3).double()
    x, e, code = torch.randn(7, 5).double(), torch.randn(3, 7, 2).double(), torch.randint(0, 4, (7,))
    joined = torch.cat([x.expand(3, -1, -1), e, one_hot(code, 4).double().expand(3, -1, -1)], -1)
    h = leaky_relu(trunk.layers[0](joined))
    for layer in trunk.layers[1:]:
        h = leaky_relu(layer(h)) + h  # the last layer is residual too, the first is not
    torch.testing.assert_close(trunk(x, e, code), h)


@pytest.mark.parametrize("likelihood", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_negative_binomial_decoders_spread_the_library_over_genes(likelihood):
    torch.manual_seed(0)
    decoder = DECODERS[likelihood](3, 11, 8, 1).double()
    library = torch.tensor([[100.0], [1000.0]]).double()
    law = decoder(torch.randn(4, 2, 3).double(), library)
    law = getattr(law, "counts", law)  # before some are set to zero
    torch.testing.assert_close(law.mean.sum(-1), library.squeeze(1).expand(4, 2) + 11 * 1e-4)
    assert (law.concentration == 1).all()


def test_a_fixed_variance_is_one_a_gene():
    decoder = DECODERS["normal_fixed_variance"](3, 2, 8, 1)
    with torch.no_grad():
        decoder.log_var[1] = 4.0
    scale = decoder(torch.randn(4, 2, 3), torch.ones(2, 1)).stddev
    torch.testing.assert_close(scale.square(), (torch.tensor([0.0, 4.0]).exp() + 1e-4).expand(4, 2, 2))


@pytest.mark.parametrize("likelihood", DECODERS)
def test_every_decoder_answers_one_call(likelihood):
    law = DECODERS[likelihood](3, 11, 8, 2)(torch.randn(4, 2, 3), torch.ones(2, 1))
    assert law.mean.shape == (4, 2, 11) and law.cell_log_prob(torch.ones(2, 11)).shape == (4, 2)
    assert law.sample().shape == (4, 2, 11)


def test_standardize(data):
    x = data.batch().x
    z = Standardize("log", data.summary())(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(x.shape[1]))
    raw = Standardize("raw", data.summary())(x)
    torch.testing.assert_close(raw, (x - x.mean(0)) / x.std(0))
    assert Standardize(None, data.summary())(x) is x
    with pytest.raises(ValueError, match="'sqrt'"):
        Standardize("sqrt", data.summary())


def test_values_without_a_logarithm_are_not_normalised_by_it():
    """Scaled values: as soon as a model is made, and with the remedy; not where all values are above -1."""
    summary = linear_data().summary()
    assert summary.log_mean.isnan().any()
    for make in (
        lambda kind: CellEncoder(summary, 2, 4, 1, kind),
        lambda kind: PointEncoder(summary, 2, 4, 1, kind),
        lambda kind: samslib.SAMSVAE(summary, latent=2, likelihood="normal", normalization=kind),
    ):
        with pytest.raises(
            ValueError, match="normalization is 'log', but .* of -1 or below.*normalization='raw', or None"
        ):
            make("log")
        make("raw"), make(None)
    CellEncoder(replace(summary, log_mean=summary.mean, log_std=summary.std), 2, 4, 1, "log")


def test_a_constant_gene_stays_finite(data):
    constant = replace(data, x=data.x.copy())
    constant.x[:, 3] = 0
    encoder = CellEncoder(constant.summary(), 2, 4, 1, "log")
    assert encoder(constant.batch().x).mean.isfinite().all()


def test_table_starts_as_the_standard_normal():
    law = NormalTable(4, 3)(torch.tensor([1, 2]))
    assert law.loc.shape == (2, 3) and (law.loc == 0).all()
    torch.testing.assert_close(law.scale, torch.full((2, 3), 1 + 1e-4))


def test_table_starts_with_the_spread_and_scale_asked_for():
    """The standard deviation of 2,000 draws of spread 3 is within five standard errors, 3 / sqrt(4,000) each."""
    torch.manual_seed(0)
    law = effect_posterior("mean_field", 500, 4, 8, 1, 3.0, 0.2)(slice(None))
    assert abs(law.loc.std().item() - 3) < 5 * 3 / 4000**0.5
    torch.testing.assert_close(law.scale, torch.full((500, 4), 0.2 + 1e-4))


def test_errors():
    with pytest.raises(ValueError, match="0 layers"):
        Trunk((2,), 4, 0)


@pytest.mark.parametrize("likelihood", DECODERS)
def test_direct_effects_move_their_own_gene(likelihood):
    """The third argument is added for each gene to logits (of shares, or of a rate) or to the mean of real values."""
    torch.manual_seed(0)
    decode, z, library = DECODERS[likelihood](3, 5, 8, 1), torch.randn(2, 4, 3), torch.full((4, 1), 500.0)
    direct = torch.tensor([1.0, 0, 0, 0, 0]).expand(4, 5)
    plain, moved = decode(z, library).mean, decode(z, library, direct).mean
    torch.testing.assert_close(decode(z, library, 0 * direct).mean, plain)
    if "binomial" in likelihood:  # shares of all genes: the odds of the first against any other are e times as high
        odds = (moved[..., :1] / moved[..., 1:]) / (plain[..., :1] / plain[..., 1:])
        torch.testing.assert_close(odds, torch.full_like(odds, math.e), rtol=1e-3, atol=0)
    else:
        assert torch.equal(moved[..., 1:], plain[..., 1:]) and (moved[..., 0] > plain[..., 0]).all()
    if "normal" in likelihood:
        torch.testing.assert_close(moved, plain + direct)
