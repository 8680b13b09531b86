"""Each package that the project asks for has a row in docs/licences.md."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = sorted(
    {
        re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower()
        for requirements in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for requirement in requirements
    }
    - {PROJECT["name"]}
)


@pytest.mark.parametrize("package", ASKED)
def test_package_has_a_row(package):
    rows = [line for line in (ROOT / "docs" / "licences.md").read_text().splitlines() if line.startswith("| ")]
    named = {name.strip() for row in rows for name in row.split("|")[1].split(",")}
    assert package in named
