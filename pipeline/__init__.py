"""The folding model, its training and the stage commands.

    from pipeline import load_run
    model = load_run("RUN")
    structure = model.fold("MKTAYIAKQRQISFVKSHFSRQ")
    structure.save("structure.cif")

Importing this package alone loads nothing else: torch comes with the first use of a name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.prediction.predictor import Predictor, Structure, load_run

__all__ = ["Predictor", "Structure", "load_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.prediction import predictor

    return getattr(predictor, name)
