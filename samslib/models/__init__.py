"""The models, one file each. MODELS is the whole list: adding a model is one file and one line here."""

from samslib.model import Model
from samslib.models.cpa_vae import CPAVAE
from samslib.models.sams_vae import SAMSVAE

MODELS: dict[str, type[Model]] = {"sams_vae": SAMSVAE, "cpa_vae": CPAVAE}

__all__ = ["CPAVAE", "MODELS", "SAMSVAE"]
