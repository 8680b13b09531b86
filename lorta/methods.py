"""The one place that names every method, and the classes behind the names."""

from typing import Any

from lorta.adapterdrop import AdapterDrop
from lorta.bitfit import BitFit
from lorta.bottleneck import Houlsby, Pfeiffer
from lorta.config import LortaConfig
from lorta.cp import CP
from lorta.factors import Factors
from lorta.insert import Insert
from lorta.insert_config import InsertConfig
from lorta.pairs import LoRA, LoRAFA, VeRA
from lorta.reparametrised import NOLA, LoRETTARep, TTLoRA
from lorta.tensors import CaRA, FacTTK, FacTTT, LoTR, MetaTT4D, MetaTT5D, TensLoRA
from lorta.tt_bottleneck import LoRETTAAdp

DECOMPOSITIONS: dict[str, type[Factors]] = {
    "lorta": CP,
    "lora": LoRA,
    "lora-fa": LoRAFA,
    "vera": VeRA,
    "nola": NOLA,
    "lotr": LoTR,
    "fact-tt": FacTTT,
    "fact-tk": FacTTK,
    "metatt-4d": MetaTT4D,
    "metatt-5d": MetaTT5D,
    "tenslora": TensLoRA,
    "cara": CaRA,
    "loretta-rep": LoRETTARep,
    "tt-lora": TTLoRA,
}
"""What updates attention matrices; ``lorta.config.METHODS`` has their settings and defaults."""

INSERTS: dict[str, type[Insert]] = {
    "bitfit": BitFit,
    "houlsby": Houlsby,
    "pfeiffer": Pfeiffer,
    "adapterdrop": AdapterDrop,
    "loretta-adp": LoRETTAAdp,
}
"""What acts behind modules; ``lorta.insert_config.INSERT_METHODS`` has their settings and defaults."""

METHODS: tuple[str, ...] = (*DECOMPOSITIONS, *INSERTS)
"""Every name that ``lorta.attach(model, method=...)`` takes."""


def config_for(**settings: Any) -> LortaConfig | InsertConfig:
    """The config of ``settings``, of the class that ``method`` (default: ``lorta``) needs.

    One-line ``ValueError``: an unknown method, a setting that it does not have, a wrong value.
    """
    method = settings.get("method", "lorta")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method in INSERTS:
        return InsertConfig.from_dict(settings)
    return LortaConfig.from_dict(settings)
