"""The pages of a run are functions of its tables."""

import math
import re

import numpy as np
import pytest

from evaluation.baselines import Baseline, write_baselines
from pipeline.config.layers import preset_layer, resolve, to_toml
from pipeline.runs.directory import RunDirectory
from pipeline.runs.tables import CsvLog
from pipeline.training import report
from pipeline.training.loop import TIMING, VALIDATION
from pipeline.training.report import read_page, write_pages


@pytest.fixture
def run(tmp_path):
    """Two steps, the second skipped; two rounds of two chains: a from 0.2 to 0.6, b from 0.4 to 0.5."""
    run = RunDirectory(tmp_path / "a_run")
    run.path.mkdir()
    run.config_file.write_text(to_toml(resolve(preset_layer("tiny"), {"training": {"max_steps": 2}})))
    run.info_file.write_text(
        '{"version": "1", "torch": "2", "processes": 1, "dataset": "D", "dataset_chains": {"train": 3, "val": 2}, '
        '"stem_sha256": "0", "frozen_sha256": "0", "command": ["train", "<it>"], '
        '"parameters": {"trunk": {"total": 20, "trainable": 10}}}'
    )
    columns = ("step", "loss", "fape", "grad_norm", "lr", "recycles", "skipped")
    metrics = CsvLog(run.metrics_file, columns, 0)
    for values in ((1, 4.0, 1.0, 2.0, 0.1, 0, 0), (2, math.nan, math.nan, 1.0, 0.1, 0, 1)):
        metrics.append(dict(zip(columns, values, strict=True)))
    timing = CsvLog(run.timing_file, TIMING, 0)
    for step in (1, 2):
        timing.append({"step": step, "seconds": 2.0, "waiting": 0.0, "samples": 4, "memory_mb": 512 * step})
    validation = CsvLog(run.validation_file, VALIDATION, 0)
    for step, scores in ((0, (0.2, 0.4)), (2, (0.6, 0.5))):
        for target, score in zip("ab", scores, strict=True):
            validation.append({"step": step, "target": target, "length": 50, "lddt_ca": score, "mean_plddt": 50.0})
    for table in (metrics, timing, validation):
        table.close()
    return run


def test_what_the_page_knows(run):
    page = read_page(run)
    assert (page.step, page.total, page.skipped, page.finished) == (2, 2, 1, False)
    assert (page.samples_per_second, page.memory_mb) == (2.0, 1024.0)
    assert page.loss.tolist() == [[1, 4.0]]
    assert {name: points.tolist() for name, points in page.terms.items()} == {"fape": [[1, 1.0]]}
    assert page.rounds.tolist() == [[0, pytest.approx(0.3)], [2, pytest.approx(0.55)]]
    assert [(t.target, t.before, t.after) for t in page.targets] == [("b", 0.4, 0.5), ("a", 0.2, 0.6)]
    assert page.change.mean == pytest.approx(0.25)


def test_running_means_are_over_the_last_steps(monkeypatch):
    """Of three: 1, (1 + 2) / 2, (1 + 2 + 6) / 3, (2 + 6 + 10) / 3."""
    monkeypatch.setattr(report, "SMOOTHING", 3)
    means = report._running_mean(np.array([[1, 1.0], [2, 2.0], [3, 6.0], [5, 10.0]]))
    assert means.tolist() == [[1, 1.0], [2, 1.5], [3, 3.0], [5, 6.0]]
    assert report._running_mean(np.empty((0, 2))).shape == (0, 2)


def test_report_stands_alone(run):
    write_pages(run)
    text = run.report_file.read_text()
    assert text.count("<svg") == 7
    assert 'http-equiv="refresh"' in text
    assert "train &lt;it&gt;" in text
    assert not re.search(r'(src|href)="(?!#)', text.replace("xlink:", ""))  # nothing is fetched
    assert "1 step(s) skipped" in text
    assert text.index("a copy of the nearest training chain scores on the same chains is not known") < text.index(
        "+0.250"
    )
    run.summary_file.write_text("{}")
    write_pages(run)
    text = run.report_file.read_text()
    assert 'http-equiv="refresh"' not in text
    assert "Finished" in text


def with_baselines(run, copy: float = 0.7) -> None:
    """Both chains have a helix of 0.3; a has a copy."""
    rows = [
        Baseline("a", 50, "t1", 0.36, 0.3, copy, copy, 0),
        Baseline("b", 50, "", math.nan, 0.3, math.nan, math.nan, 1),
    ]
    write_baselines(run.baselines_file, rows)


def test_scores_have_the_baselines_beside_them(run):
    """Last round: a 0.6, b 0.5; a's copy has 0.7."""
    with_baselines(run)
    write_pages(run)
    words = (
        "above the helix, below the copy of the nearest training chain by 0.10 (better on 0 of 1 chains, 36% identical "
        "on average; 1 more has no training chain to copy)"
    )
    means = "one straight helix 0.300, copy of the nearest training chain 0.700 (36% identical on average; over the 1 "
    for file in (run.report_file, run.card_file):
        text = file.read_text()
        assert words in text and means in text
        assert "all 2 validation chains, of 2 clusters" in text
    text = run.report_file.read_text()
    assert "lDDT-Cα 0.550" in text and text.index(words) < text.index("+0.250")
    row = text[text.index("<tr><td>a</td>") :]
    row = row[: row.index("</tr>")]
    assert re.findall(r"<td[^>]*>([^<]*)", row) == [
        "a",
        "50",
        "t1",
        "36%",
        "0.300",
        "0.700",
        "0.200",
        "0.600",
        "+0.400",
    ]
    row = text[text.index("<tr><td>b</td>") :]
    assert re.findall(r"<td[^>]*>([^<]*)", row)[:6] == ["b", "50", "none", "-", "0.300", "-"]


def test_of_a_run_that_did_not_start_from_scratch_the_copy_is_of_its_own_chains(run):
    with_baselines(run)
    changes = {"init": {"weights": "esmfold_v1"}, "stem": {"init": "pretrained"}}
    run.config_file.write_text(to_toml(resolve(preset_layer("tiny"), changes)))
    write_pages(run)
    for file in (run.report_file, run.card_file):
        assert "The copy is of this run's training chains; which chains esmfold_v1 was trained on" in file.read_text()


def test_card(run):
    write_pages(run)
    card = run.card_file.read_text()
    assert card.startswith("# a_run\n")
    assert "never pretrained" in card
    assert "0.300 at step 0, 0.550 at step 2" in card
    assert "Trained parameters: 10 of 20" in card
    assert "--checkpoint best" not in card, "the last round is the best"
    assert "by heart" not in card and "It started from" not in card


def test_card_and_page_name_what_a_reader_can_use(run):
    """The first round was better; the page says how often it is written."""
    text = run.validation_file.read_text()
    run.validation_file.write_text(text.replace("0.6", "0.1"))
    write_pages(run)
    assert "best round of validation was at step 0: `--checkpoint best` takes that model" in run.card_file.read_text()
    assert "each checkpoint, and every 10 minutes." in run.report_file.read_text()


def test_card_of_a_run_that_is_no_plain_one(run):
    changes = {
        "init": {"weights": "esmfold_v1"},
        "stem": {"init": "pretrained"},
        "trunk_adapter": {"method": "lora", "rank": 2},
        "data": {"overfit": 4, "extra": "PREDICTED"},
        "training": {"freeze": ["trunk.blocks.0.*"]},
    }
    run.config_file.write_text(to_toml(resolve(preset_layer("tiny"), changes)))
    write_pages(run)
    card = run.card_file.read_text()
    assert "It started from esmfold_v1; its trunk got an adapter, lora of rank 2." in card
    assert "Only the first 3 training chain(s) were used" in card and "by heart" in card
    assert "75% of the samples are predicted structures from PREDICTED." in card
    assert "Frozen by name: trunk.blocks.0.*." in card
