"""Names of methods and the classes behind them; ``lorta.config.METHODS`` has their settings and defaults."""

from lorta.cp import CP
from lorta.factors import Factors
from lorta.pairs import LoRA, LoRAFA, VeRA
from lorta.reparametrised import NOLA, LoRETTARep
from lorta.tensors import CaRA, FacTTK, FacTTT, LoTR, MetaTT4D, MetaTT5D, TensLoRA

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
}
