"""Prediction on a device that is not the CPU, as far as that can be tried without one."""

import csv

import numpy as np

from data_prep.structure_io import read_structure
from pipeline.predict import main
from tests.pipeline.training.test_other_device import pretended


def test_folds_there_are_those_of_a_cpu(weights_path, tmp_path):
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">one\nMKTAYIAKQRQISFVK\n>two\nMKVLAAGIVGLPVAS\n>complex\nMKTAYIAK:GSHMLE\n")
    for device in ("cpu", "pretended"):
        arguments = ["--run", str(weights_path), "--fasta", str(fasta), "--out", str(tmp_path / device)]
        arguments += ["--device", device]
        if device == "cpu":
            assert main(arguments) == 0
        else:
            result = pretended("-m", "tests.pretended_device", "pipeline.predict", *arguments)
            assert result.returncode == 0, result.stderr[-2000:]
    with (tmp_path / "pretended/predictions.csv").open(newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert {name: row["device"] for name, row in rows.items()} == dict.fromkeys(("one", "two", "complex"), "pretended")
    for name in rows:
        here, there = (read_structure(tmp_path / device / f"{name}.cif") for device in ("cpu", "pretended"))
        assert len(here) == len(there) == (2 if name == "complex" else 1)
        for one, other in zip(here, there, strict=True):
            assert one.sequence == other.sequence and np.array_equal(one.atom37_mask, other.atom37_mask)
            np.testing.assert_allclose(one.atom37_positions, other.atom37_positions, atol=0.02)
            np.testing.assert_allclose(one.b_factors, other.b_factors, atol=0.02)
