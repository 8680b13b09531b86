"""The PEFT config of any method by its name, AdaLoRA and DoRA included, which are PEFT's own.

    model = get_peft_model(model, lorta.peft_config("dora", model=model, r=8, task_type="CAUSAL_LM"))

PEFT is imported when it is called, not before.
"""

from typing import TYPE_CHECKING, Any

from torch import nn

from lorta.config import ROLES, LortaConfig
from lorta.methods import METHODS, config_for
from lorta.settings import one_of
from lorta.sites import find_sites

if TYPE_CHECKING:
    from peft import PeftConfig

FROM_PEFT = {
    "adalora": ("total_step", "tinit", "tfinal", "deltaT", "init_r", "beta1", "beta2", "orth_reg_weight"),
    "dora": (),
}
"""Methods that PEFT has, and their settings besides r, alpha, targets and dropout."""

PEFT_METHODS: tuple[str, ...] = (*METHODS, *FROM_PEFT)
"""Every name that ``lorta.peft_config`` takes."""


def peft_config(
    method: str = "lorta",
    *,
    model: nn.Module | None = None,
    task_type: str | None = None,
    modules_to_save: list[str] | None = None,
    **settings: Any,
) -> "PeftConfig":
    """A config for ``peft.get_peft_model`` and for ``peft_config=`` of trl's trainers.

    ``settings`` are those of ``LortaConfig`` or ``InsertConfig``. ``adalora`` and ``dora`` take r, alpha (default r),
    targets (roles), dropout, and need ``model``: PEFT wants names of modules, which are found here by role.
    ``adalora`` also needs ``total_step``; r is its final mean rank, ``init_r`` (default 3 r / 2, as PEFT's 12 for 8)
    the one at the start; call ``after_step`` in every training step.

    Raises a one-line ``ValueError`` for an unknown method, a setting that it does not have, and a wrong value;
    ``ImportError`` without PEFT.
    """
    import peft  # noqa: F401 - from here on, configs are PeftConfigs

    one_of("method", method, PEFT_METHODS)
    common = {"task_type": task_type, "modules_to_save": modules_to_save}
    if method not in FROM_PEFT:
        config = config_for(method=method, **settings)
        return type(config)(**config.settings(), **common)
    if model is None:
        raise ValueError(f"{method!r} comes from PEFT, which names modules: give the model too, peft_config(model=...)")
    return _of_peft(method, model, common, **settings)


def _of_peft(
    method: str,
    model: nn.Module,
    common: dict[str, Any],
    r: int = 8,
    alpha: float | None = None,
    targets: tuple[str, ...] = ROLES,
    dropout: float = 0.0,
    **settings: Any,
) -> "PeftConfig":
    from peft import AdaLoraConfig, LoraConfig

    for name in settings:
        if name not in FROM_PEFT[method]:
            others = ", ".join(("r", "alpha", "targets", "dropout", *FROM_PEFT[method]))
            raise ValueError(f"{name!r} is no setting of {method!r}; there are {others}")
    checked = LortaConfig(method="lora", r=r, alpha=alpha, targets=targets, dropout=dropout)
    common = common | {"target_modules": _modules(model, checked.targets), "lora_dropout": dropout}
    if method == "dora":
        return LoraConfig(r=r, lora_alpha=checked.alpha, use_dora=True, **common)
    if "total_step" not in settings:
        raise ValueError("adalora needs total_step, the number of training steps: it spreads its pruning over them")
    start = settings.pop("init_r", None) or max(r + 1, 3 * r // 2)
    return AdaLoraConfig(target_r=r, init_r=start, lora_alpha=checked.alpha, **settings, **common)


def _modules(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """Paths of the modules that hold the roles ``targets``; one that holds others too is refused."""
    held: dict[str, set[str]] = {}
    for site in find_sites(model):
        held.setdefault(site.module, set()).add(site.role)
    for path, roles in held.items():
        extra = sorted(roles - set(targets), key=ROLES.index)
        if extra and roles & set(targets):
            raise ValueError(
                f"{path} holds {', '.join(extra)} too, and PEFT adapts whole modules: target all its roles"
            )
    return [path for path, roles in held.items() if roles & set(targets)]


def after_step(model: nn.Module, step: int) -> None:
    """What ``model``'s method does after every optimizer step ``step``, from 0, and before ``zero_grad``.

    AdaLoRA moves its budget of ranks, by the gradients that are still there; every other method does nothing.
    """
    for module in model.modules():
        if hasattr(type(module), "update_and_allocate"):
            module.update_and_allocate(step)
