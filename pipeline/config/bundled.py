"""Small text files that come with the package: presets, grids, configurations of models."""

from importlib import resources


def bundled_names(package: str, folder: str, suffix: str) -> list[str]:
    """Names without ``suffix`` of the files in ``folder`` of ``package``, sorted."""
    entries = (resources.files(package) / folder).iterdir()
    return sorted(entry.name.removesuffix(suffix) for entry in entries if entry.name.endswith(suffix))


def bundled_text(package: str, *path: str) -> str:
    """Text of a file of ``package``."""
    return resources.files(package).joinpath(*path).read_text(encoding="utf-8")
