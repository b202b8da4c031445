"""The models, one file each. MODELS is the whole list: adding a model is one file and one line here.

BASELINES lists the plain baselines, one file for all. They keep the same contract, so one loop over MODELS | BASELINES
makes a table; the summary is data.summary(train, pseudobulk=True).
"""

from samslib.model import Model
from samslib.models.baselines import Additive, ControlMean, DecoderOnly, LatentAdditive, Linear, PerturbationMean
from samslib.models.conditional_vae import ConditionalVAE
from samslib.models.cpa import CPA
from samslib.models.cpa_vae import CPAVAE
from samslib.models.cradle_vae import CRADLEVAE
from samslib.models.learned_sparsity import BetaBernoulliSAMSVAE
from samslib.models.sams_vae import SAMSVAE
from samslib.models.svae_plus import SVAEPlus

MODELS: dict[str, type[Model]] = {
    "sams_vae": SAMSVAE,
    "learned_sparsity": BetaBernoulliSAMSVAE,
    "cpa_vae": CPAVAE,
    "svae_plus": SVAEPlus,
    "conditional_vae": ConditionalVAE,
    "cradle_vae": CRADLEVAE,
    "cpa": CPA,
}

BASELINES: dict[str, type[Model]] = {
    "control_mean": ControlMean,
    "perturbation_mean": PerturbationMean,
    "additive": Additive,
    "linear": Linear,
    "latent_additive": LatentAdditive,
    "decoder_only": DecoderOnly,
}
