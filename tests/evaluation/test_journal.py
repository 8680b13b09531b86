import csv
import json

import numpy as np
import pytest

from data_prep.files.workers import ProcessKilledError
from data_prep.structure.io import write_pdb
from evaluation import run as evaluation
from evaluation.run import Settings, run_targets
from evaluation.targets import pair


@pytest.fixture
def case(tmp_path, record, walk, sequence):
    """Five noisy predictions with confidence; the last one cannot be read."""
    generator = np.random.default_rng(0)
    for folder in ("preds", "truth"):
        (tmp_path / folder).mkdir()
    for i in range(5):
        letters, shape = sequence(30, i), walk(30, i)
        write_pdb(tmp_path / "truth" / f"t{i}.pdb", [record(letters, shape)])
        noisy = shape + generator.normal(size=shape.shape)
        plddt = generator.uniform(40, 95, 30).round(1)
        write_pdb(tmp_path / "preds" / f"t{i}.pdb", [record(letters, noisy, b_factors=plddt, backbone=True)])
    (tmp_path / "preds" / "t4.pdb").write_text("not a structure\n")
    return tmp_path / "preds", tmp_path / "truth"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def counting(monkeypatch):
    """Names of the targets that are scored from now on."""
    scored, original = [], evaluation._evaluate_one
    monkeypatch.setattr(
        evaluation, "_evaluate_one", lambda target, *rest: scored.append(target.name) or original(target, *rest)
    )
    return scored


def test_a_stopped_run_goes_on_where_it_was(case, run, tmp_path, monkeypatch):
    """Stopped at the fourth target and in the middle of a line: the first three are taken, and every file comes out as
    if nothing had happened."""
    options = ("--all-atom", "--superposition", "--report")
    run(*case, "--out", tmp_path / "whole", *options)
    original = evaluation._evaluate_one

    def stop(target, *rest):
        if target.name == "t3":
            raise KeyboardInterrupt
        return original(target, *rest)

    monkeypatch.setattr(evaluation, "_evaluate_one", stop)
    stopped = run(*case, "--out", tmp_path / "out", *options)
    assert stopped.status == 130 and "--resume goes on" in stopped.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["targets.jsonl"]
    with (tmp_path / "out" / "targets.jsonl").open("a") as file:
        file.write('{"true_chain": null, "row": {"target": "t3", "sta')
    monkeypatch.setattr(evaluation, "_evaluate_one", original)
    scored = counting(monkeypatch)
    done = run(*case, "--out", tmp_path / "out", *options, "--resume")
    assert done.status == 1 and "resumed: 3 of 5 targets were scored before" in done.out
    assert scored == ["t3", "t4"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_changed_and_what_failed_is_scored_again(case, run, tmp_path, monkeypatch):
    preds, truth = case
    run(preds, truth, "--out", tmp_path / "out")
    (preds / "t1.pdb").write_bytes((preds / "t1.pdb").read_bytes() + b"REMARK\n")
    (truth / "t2.pdb").write_bytes((truth / "t2.pdb").read_bytes() + b"REMARK\n")
    scored = counting(monkeypatch)
    assert "resumed: 2 of 5" in run(preds, truth, "--out", tmp_path / "out", "--resume").out
    assert scored == ["t1", "t2", "t4"]


def test_another_definition_of_the_score_is_not_mixed_in(case, run, tmp_path):
    run(*case, "--out", tmp_path / "out")
    done = run(*case, "--out", tmp_path / "out", "--resume", "--match", "align")
    assert done.status == 2
    assert "belongs to a run with other settings (match was auto, now align)" in done.err and done.err.count("\n") == 1


def test_a_damaged_journal_is_named(case, run, tmp_path):
    run(*case, "--out", tmp_path / "out")
    path = tmp_path / "out" / "targets.jsonl"
    path.write_text(path.read_text().replace('{"true_chain"', '{"true_', 1))
    done = run(*case, "--out", tmp_path / "out", "--resume")
    assert done.status == 2 and "targets.jsonl: line 2 is damaged" in done.err and done.err.count("\n") == 1


def test_resume_where_nothing_was_starts(case, run, tmp_path):
    assert "resumed: 0 of 5" in run(*case, "--out", tmp_path / "new", "--resume").out
    assert "--resume goes on with the run in the directory of --out" in run(*case, "--resume").err


def test_a_chain_of_the_truth_is_part_of_the_target(case, tmp_path):
    preds, truth = case
    table = tmp_path / "pairs.csv"
    for chain, expected in (("", 0), ("A", 0), ("A", 1)):
        table.write_text(f"pred,truth,truth_chain\nt0.pdb,t0.pdb,{chain}\n")
        targets = pair(preds, truth, table).targets
        assert run_targets(targets, Settings(), tmp_path / "out", resume=True)[1] == expected


def test_several_processes_give_the_same_files(case, run, tmp_path):
    run(*case, "--out", tmp_path / "one")
    done = run(*case, "--out", tmp_path / "two", "--jobs", 2)
    assert done.status == 1
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert run(*case, "--jobs", "0").status == 2


def test_a_killed_process_is_one_line(case, monkeypatch, run, tmp_path):
    def broken(*_):
        raise ProcessKilledError

    monkeypatch.setattr(evaluation, "in_processes", broken)
    done = run(*case, "--jobs", 2, "--out", tmp_path / "out")
    assert (
        done.status == 1 and done.err.startswith("error: one of 2 processes was killed") and done.err.count("\n") == 1
    )


def test_a_record_of_a_dataset_is_known_by_its_source(tmp_path, record, walk, sequence):
    from dataclasses import replace

    from data_prep.dataset.store import Placement
    from tests.datasets import write_dataset

    truth = replace(record(sequence(30, 1), walk(30, 1)), id="x_A", source_sha256="abc")
    write_dataset(tmp_path / "dataset", [truth], placements={"x_A": Placement("val")})
    (tmp_path / "preds").mkdir()
    write_pdb(tmp_path / "preds" / "x_A.pdb", [truth])
    targets = pair(tmp_path / "preds", tmp_path / "dataset").targets
    taken = [run_targets(targets, Settings(), tmp_path / "out", resume=True)[1] for _ in range(2)]
    assert taken == [0, 1]
    line = json.loads((tmp_path / "out" / "targets.jsonl").read_text().splitlines()[1])
    assert line["row"]["truth_sha256"] == "abc"
    evaluation._record_digests.cache_clear()


def test_rows_come_in_the_order_of_the_targets(case):
    targets = pair(*case).targets[::-1]
    assert [row.target for row in run_targets(targets, Settings(), jobs=2)[0]] == ["t4", "t3", "t2", "t1", "t0"]


def test_ids_and_a_suffix_on_the_command_line(case, run, tmp_path):
    preds, truth = case
    for path in list(truth.iterdir()):
        path.rename(path.with_name(f"{path.stem}_ref.pdb"))
    (preds / "t3.pdb").unlink()
    (tmp_path / "ids.txt").write_text("# chosen\nt0\nt3\n\nnobody\n")
    done = run(*case, "--truth-suffix", "_ref", "--ids", tmp_path / "ids.txt", "--out", tmp_path / "out")
    with (tmp_path / "out" / "scores.csv").open() as file:
        rows = {row["target"]: (row["status"], row["truth"] != "") for row in csv.DictReader(file)}
    assert rows == {"t0": ("scored", True), "t3": ("missing", True), "nobody": ("failed", False)}
    assert done.status == 1 and "--ids: 3 targets expected, 3 others left out" in done.out
