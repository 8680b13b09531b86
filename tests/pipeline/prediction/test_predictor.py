"""Folding from Python, as README and notebook show it."""

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.prediction.fold import PredictionError
from pipeline.prediction.sequences import InputError
from tests.pipeline.prediction.conftest import rows

ROOT = Path(__file__).resolve().parents[3]
SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQ"


def test_same_as_the_command(predict, fasta, run_path, tmp_path):
    out = predict(fasta(a=SEQUENCE))
    structure = pipeline.load_run(run_path, device="cpu").fold(SEQUENCE.lower(), name="a")
    assert structure.save(tmp_path / "a.pdb").read_bytes() == (out / "a.pdb").read_bytes()
    assert structure.to_pdb().encode() == (out / "a.pdb").read_bytes()
    assert re.fullmatch(r"Structure\(a: 22 residues, mean pLDDT \d+\.\d\)", repr(structure))
    assert structure.save(tmp_path / "a.cif").read_bytes() == (out / "a.cif").read_bytes()
    (row,) = rows(out)
    assert structure.mean_plddt == pytest.approx(float(row["mean_plddt"]), abs=0.006)
    assert "; ".join(structure.warnings) == row["warnings"]
    assert structure.sequence == SEQUENCE and structure.ca_positions.shape == (22, 3)
    assert structure.pae is None and structure.ptm is None and structure.iptm is None
    with pytest.raises(ValueError, match="no head for aligned errors"):
        structure.save(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"must be \.pdb, \.cif or \.json"):
        structure.save(tmp_path / "a.xyz")


def test_each_of_a_list(run_path, capsys):
    model = pipeline.load_run(run_path, device="cpu")
    first, second = model.fold(["MKTAY", "GSHM:LEEK"], name="p", recycles=0)
    assert repr(first).startswith("Structure(p_1: 5 residues,") and second.sequence == "GSHM:LEEK"
    np.testing.assert_array_equal(first.plddt, model.fold("MKTAY", recycles=0).plddt)
    assert capsys.readouterr().err == "", "the bar is for terminals and notebooks"
    assert model.fold([]) == []
    with pytest.raises(InputError, match=r"^p_2: "):
        model.fold(["MKTAY", "M1"], name="p")


def test_a_complex_of_a_published_model(weights_path, tmp_path):
    model = pipeline.load_run("esmfold_v1", weights=str(weights_path), device="cpu")
    structure = model.fold("MKTAYIAK:GGSWQ", recycles=0)
    assert isinstance(structure, pipeline.Structure) and isinstance(model, pipeline.Predictor)
    assert [chain.chain_id for chain in structure.chains] == ["A", "B"]
    assert (
        structure.pae.shape == (13, 13)
        and 0 < structure.ptm < 1
        and 0 < structure.iptm < 1
        and structure.plddt.shape == (13,)
    )
    (document,) = json.loads(structure.save(tmp_path / "x.json").read_text())
    np.testing.assert_array_equal(document["predicted_aligned_error"], np.rint(structure.pae))
    assert model.description.startswith("esmfold_v1: 2 blocks")
    assert repr(model) == f"Predictor({model.description}; on cpu)" and "13 residues in 2 chains" in repr(structure)


def test_memory_that_ends_is_one_line(run_path, monkeypatch):
    def fold(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")

    monkeypatch.setattr("pipeline.prediction.predictor.fold_batch", fold)
    with pytest.raises(PredictionError) as error:
        pipeline.load_run(run_path, device="cpu").fold("MKTAY:MK", name="long")
    assert str(error.value) == "long: memory of cpu ended with 32 residues"


def test_mistakes(run_path, tmp_path):
    model = pipeline.load_run(run_path, device="cpu")
    with pytest.raises(InputError, match="prediction: '1' at position 2"):
        model.fold("M1")
    with pytest.raises(InputError, match="prediction: a text of one-letter codes is expected, not tuple"):
        model.fold(("MKT",))
    for recycles in (-1, 1.5):
        with pytest.raises(InputError, match=f"x: recycles are a whole number from 0, not {recycles}"):
            model.fold("MKT", name="x", recycles=recycles)
    with pytest.raises(ValueError, match="not a run directory"):
        pipeline.load_run(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        pipeline.load  # noqa: B018


def test_importing_the_package_is_light():
    code = (
        "import sys, pipeline\n"
        "print([name for name in ('torch', 'numpy', 'gemmi') if name in sys.modules])\n"
        "import pipeline.predict\n"  # torch's compiler takes as long to import as torch
        "print([name for name in ('torch._dynamo', 'sympy', 'scipy', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["[]", "[]"]


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Every code cell of docs/tour.ipynb in turn, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5 and notebook["nbformat"] == 4
    assert all(cell.get("outputs", []) == [] for cell in notebook["cells"]), "outputs are not kept"
    names: dict[str, object] = {"__name__": "__main__"}
    shown = io.StringIO()
    with redirect_stdout(shown):
        for i, source in enumerate(cells):
            exec(compile(source, f"cell {i}", "exec"), names)
    assert (tmp_path / "tour" / "structure.cif").is_file() and (tmp_path / "tour" / "preds" / "report.html").is_file()
    assert "lDDT-Calpha" in shown.getvalue()
