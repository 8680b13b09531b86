"""The classes of the methods that update weights; ``WEIGHT_METHODS`` of ``lorta.config`` has their settings."""

from lorta.cp import CP
from lorta.factors import Factors
from lorta.pairs import NOLA, LoRA, LoRAFA, LoRETTARep, TTLoRA, VeRA
from lorta.tensors import CaRA, FacTTK, FacTTT, LoTR, MetaTT4D, MetaTT5D, TensLoRA

FACTORS: dict[str, type[Factors]] = {
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
