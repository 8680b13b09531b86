"""BitFit (arXiv 2106.10199): only biases train. Here as their change, added to the outputs, so that the base stays."""

import torch
from torch import Tensor, nn

from lorta.factors import fill, new_parameter
from lorta.insert import Insert
from lorta.insert_config import InsertConfig
from lorta.sites import base_linear, is_conv1d


class BitFit(Insert):
    """One vector per bias, at 0 at the start: for Linear, Conv1D and LayerNorm, b + v in the module is v behind it.

    Adam moves v exactly as it would move b; weight decay pulls b to its pretrained value, not to 0. A bias that a
    module of another kind adds itself (``lm_head.bias`` of fair-esm) belongs to a head and stays fixed.
    Count: the sum of the widths.
    """

    constant = True

    def __init__(
        self,
        model: nn.Module,
        config: InsertConfig,
        device: torch.device,
        dtype: torch.dtype,
        exclude: tuple[str, ...] = (),
    ):
        super().__init__(model, config, device, dtype, exclude)
        widths = {}
        for path, module in model.named_modules():
            base = base_linear(module)
            known = isinstance(base, (nn.Linear, nn.LayerNorm)) or is_conv1d(base)
            # the inside of a wrapper of another adapter is the same module once more
            if known and base.bias is not None and path.rpartition(".")[2] != "base_layer" and self._may_follow(path):
                widths[path] = base.bias.shape[0]
        if not widths:
            raise ValueError(f"{type(model).__name__} has no Linear, Conv1D or LayerNorm with a bias; bitfit needs one")
        self._widths = widths
        self.bias = nn.ParameterDict(
            {_key(path): new_parameter(width, like=(device, dtype)) for path, width in widths.items()}
        )

    def reset_parameters(self) -> None:
        """All zero."""
        for parameter in self.bias.values():
            fill(parameter, torch.zeros(parameter.shape))

    @property
    def zero_factors(self) -> tuple[str, ...]:
        """All."""
        return tuple(self.factors())

    def follow(self, path: str, y: Tensor) -> Tensor:
        """y + v."""
        return y + self.bias[_key(path)].to(y.dtype) if path in self._widths else y

    def places(self) -> dict[str, str]:
        """See ``Insert``."""
        return {path: f"bias of {width}" for path, width in self._widths.items()}


def _key(path: str) -> str:
    return path.replace(".", "/")  # names of parameters hold no dot
