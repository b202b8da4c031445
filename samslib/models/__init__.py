"""The models, one file each. MODELS is the whole list: adding a model is one file and one line here."""

from samslib.model import Model
from samslib.models.conditional_vae import ConditionalVAE
from samslib.models.cpa import CPA
from samslib.models.cpa_vae import CPAVAE
from samslib.models.learned_sparsity import BetaBernoulliSAMSVAE
from samslib.models.sams_vae import SAMSVAE
from samslib.models.svae_plus import SVAEPlus

MODELS: dict[str, type[Model]] = {
    "sams_vae": SAMSVAE,
    "learned_sparsity": BetaBernoulliSAMSVAE,
    "cpa_vae": CPAVAE,
    "svae_plus": SVAEPlus,
    "conditional_vae": ConditionalVAE,
    "cpa": CPA,
}

__all__ = ["CPA", "CPAVAE", "MODELS", "SAMSVAE", "BetaBernoulliSAMSVAE", "ConditionalVAE", "SVAEPlus"]
