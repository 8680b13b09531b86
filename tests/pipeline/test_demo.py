"""The demo's table has the baselines beside the scores, and it deletes nothing but its own."""

import csv

import numpy as np
import pytest

from data_prep.files.command_line import program
from pipeline.demo import DemoError, main, scores_of, stem_in_words
from pipeline.folding import demo_weights
from pipeline.folding.demo_weights import DemoStem

pytestmark = pytest.mark.slow


def test_a_target_without_a_score_ends_the_demo(tmp_path):
    (tmp_path / "scores.csv").write_text("target,status,reason,lddt_ca\na,scored,,0.5\n")
    assert scores_of(tmp_path) == {"a": 0.5}
    (tmp_path / "scores.csv").write_text("target,status,reason,lddt_ca\na,failed,no atoms,\n")
    with pytest.raises(DemoError, match="a is failed: no atoms"):
        scores_of(tmp_path)


def test_the_demo_says_which_stem_it_has(tmp_path):
    stem = DemoStem(tmp_path, "ESM-2 8M as published by fair-esm", ())
    assert stem_in_words(stem) == "The stem is pretrained: ESM-2 8M as published by fair-esm."
    words = stem_in_words(DemoStem(None, "", ("no file in the cache", "no download from there (timed out)")))
    assert "random weights, never pretrained" in words
    assert words.endswith("were not found: no file in the cache; no download from there (timed out).")


def test_the_demo_in_two_steps(tmp_path, capfd, monkeypatch):
    """All commands, with a model that has learned nothing yet; then again in the same place."""
    nowhere = DemoStem(None, "", ("no network in tests",))
    monkeypatch.setattr(demo_weights, "find_demo_stem", lambda _console: nowhere)
    out = tmp_path / "out"
    assert main(["--out", str(out), "--max-steps", "2"]) == 0
    title, _, *lines, _, stem, standing = (out / "summary.txt").read_text().splitlines()
    assert title == f"lDDT-Calpha of held-out chains, mean over 6; {program()}"
    means = {name: float(value) for name, value in (line.split(": ") for line in lines)}
    assert stem == stem_in_words(nowhere)
    assert list(means) == ["straight helix", "copy of the nearest training chain", "untrained", "trained"]
    assert means["straight helix"] == pytest.approx(0.313, abs=5e-4)  # as in the README
    assert means["copy of the nearest training chain"] == pytest.approx(0.692, abs=5e-4)
    by = f"{0.6915 - means['trained']:.2f}"
    assert standing == (
        "The trained model is no better than a straight helix, below the copy of the nearest training chain by "
        f"{by} (better on 0 of 6 chains, 35% identical on average)."
    )
    assert means["untrained"] == pytest.approx(0.011, abs=2e-3)
    with (out / "scores" / "scores.csv").open(newline="") as stream:
        trained = [float(row["lddt_ca"]) for row in csv.DictReader(stream)]
    assert len(trained) == 6 and means["trained"] == pytest.approx(np.mean(trained), abs=1e-4)
    assert (out / "scores" / "report.html").is_file() and (out / "run" / "report.html").is_file()
    printed = capfd.readouterr().out
    assert "Training chains: 28. Adapter: LoRTA rank 8, 728 parameters" in printed
    assert " ".join(printed.split()).rpartition(" The demo took")[0].endswith(standing)
    row = next(line for line in printed.splitlines() if "d1cg5a__A" in line and "35%" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")][:5] == ["d1cg5a__A", "141", "35%", "0.316", "0.672"]
    (out / "run" / "config.toml").write_text("")  # whatever became of it, a demo's directory is made anew
    assert main(["--out", str(out), "--max-steps", "-1"]) == 1
    assert "max_steps" in capfd.readouterr().err and not (out / "run").exists()


def test_no_directory_but_an_earlier_demo_is_deleted(tmp_path, capsys):
    mine = tmp_path / "dataset" / "index.parquet"
    mine.parent.mkdir()
    mine.write_text("of pipeline.prepare")
    assert main(["--out", str(tmp_path)]) == 2
    assert "is not an earlier demo: choose another --out" in capsys.readouterr().err
    assert main(["--out", str(mine)]) == 2
    assert mine.read_text() == "of pipeline.prepare"
