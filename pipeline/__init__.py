"""The folding model, its training and the stage commands.

    from pipeline import load_run
    model = load_run("RUN")
    structure = model.fold("MKTAYIAKQRQISFVKSHFSRQ")
    structure.save("structure.cif")

Importing this package alone loads nothing else: torch comes with the first use of a name.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.prediction.predictor import Predictor, Structure, load_run

__all__ = ["Predictor", "Structure", "load_run"]


_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and os.path.realpath(sys.path[0]) != os.path.realpath(_HERE):
    del sys.path[0]  # python -m pipeline.X: a lorta/ or evaluation/ in the working directory is not ours


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from data_prep.files.command_line import release

        return release()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.prediction import predictor

    return getattr(predictor, name)
