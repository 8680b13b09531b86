"""Prediction on a device that is not the CPU: one that only pretends to be, and a GPU."""

import csv

import numpy as np
import pytest

from data_prep.structure.io import read_structure
from pipeline.predict import main
from tests.pipeline.training.test_other_device import run_on


@pytest.mark.parametrize("device", ["pretended", "cuda"])
def test_folds_there_are_those_of_a_cpu(device, weights_path, tmp_path):
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">one\nMKTAYIAKQRQISFVK\n>two\nMKVLAAGIVGLPVAS\n>complex\nMKTAYIAK:GSHMLE\n")
    arguments = ("--run", str(weights_path), "--fasta", str(fasta), "--out")
    run_on(device, "pipeline.predict", *arguments, tmp_path / device, "--device", device)
    assert main([*arguments, str(tmp_path / "cpu"), "--device", "cpu"]) == 0
    with (tmp_path / device / "predictions.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert {name: row["device"] for name, row in rows.items()} == dict.fromkeys(("one", "two", "complex"), device)
    for name in rows:
        here, there = (read_structure(tmp_path / where / f"{name}.cif") for where in ("cpu", device))
        assert len(here) == len(there) == (2 if name == "complex" else 1)
        for one, other in zip(here, there, strict=True):
            assert one.sequence == other.sequence and np.array_equal(one.atom37_mask, other.atom37_mask)
            np.testing.assert_allclose(one.atom37_positions, other.atom37_positions, atol=0.02)
            np.testing.assert_allclose(one.b_factors, other.b_factors, atol=0.02)
