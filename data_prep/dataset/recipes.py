"""The filters that published models state for their training chains, as settings with their sources.

They hold what applies to single protein chains; where a publication is silent, our default stays. Entries without a
resolution (NMR) pass in all: OpenFold's caches hold 0 for them, and the others do not name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_prep.dataset.filters import FilterSettings


@dataclass(frozen=True)
class Recipe:
    """Filter settings under a name."""

    source: str
    filters: Mapping[str, Any] = field(default_factory=dict)
    """Values of ``FilterSettings`` that differ from its defaults."""

    def settings(self, **changes: Any) -> FilterSettings:
        """The recipe's settings, with some of them changed."""
        return FilterSettings(**{**self.filters, **changes})


RECIPES: dict[str, Recipe] = {
    "none": Recipe("our own: only what cannot be learnt from is left out"),
    "openfold": Recipe(
        "Ahdritz et al. 2024 after Jumper et al. 2021, suppl. 1.2.5: at most 9 A, no residue type above 80%",
        {"max_resolution": 9.0, "keep_unstated_resolution": True, "max_residue_fraction": 0.8},
    ),
    "esmfold": Recipe(
        "Lin et al. 2023, as others report it: released up to 2020-05-01. Its supplement, which may state limits of "
        "resolution, length and composition, was not at hand: give these as options",
        {"released_before": "2020-05-02"},
    ),
    "boltz": Recipe(
        "Wohlwend et al. 2024 after Abramson et al. 2024, suppl. 2.5.4: released up to 2021-09-30, at most 9 A, 4 "
        "residues observed, not all unknown, at most 5,000 residues, no jump above 10 A between consecutive alpha "
        "carbons, at most 30% of the atoms within 1.7 A of another chain",
        {
            "max_resolution": 9.0,
            "keep_unstated_resolution": True,
            "min_length": 4,
            "max_length": 5000,
            "min_observed": 4,
            "min_ca_fraction": 0.0,
            "max_unknown_fraction": 0.9999,  # one residue of 5,000 may be known
            "released_before": "2021-10-01",
            "max_ca_jump": 10.0,
            "max_clash_fraction": 0.3,
        },
    ),
}
"""By the name that ``--recipe`` takes."""
