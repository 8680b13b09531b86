"""The command as a user runs it: resuming, parts, several devices, mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.predict import main
from pipeline.prediction import engine
from pipeline.prediction.command import parse_size
from pipeline.prediction.fold import fold_batch
from tests.pipeline.prediction.conftest import rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SEQUENCES = {
    "a": "MKTAYIAKQRQISFVKSHFSRQ",
    "b": "GSHMLEEKQR",
    "c": "MKTAYIAKQR:GGSWQRTY",
    "d": "MKTAYIAKQRQISFVKSHFSRQLE",
}


def test_files_and_rows(predict, fasta, capsys):
    out = predict(fasta(**SEQUENCES, bad="MK*T", twin=SEQUENCES["b"].lower()), out="out [1]", code=1)
    found = {row["name"]: row for row in rows(out)}
    assert list(found) == ["a", "b", "c", "d", "bad", "twin"], "the order of the input"
    assert {row["status"] for row in found.values()} == {"done", "rejected"}
    assert found["bad"]["reason"].startswith("stop sign (*) at position 3") and not found["bad"]["file"]
    assert found["twin"]["notes"] == "same sequence as b: folded once"
    assert found["c"]["chains"] == "2" and found["c"]["length"] == "18"
    names = sorted(path.name for path in out.iterdir())
    structures = [f"{name}{suffix}" for name in sorted([*SEQUENCES, "twin"]) for suffix in (".cif", ".pdb")]
    assert [name for name in names if name.endswith((".cif", ".pdb"))] == structures
    assert {"predictions.csv", "predictions.json", "report.html"} < set(names) and not any(
        name.startswith(".") for name in names
    )
    screen = capsys.readouterr().out
    assert "residues/s" in screen and "Not folded: 1" in screen and f"Next: python -m evaluation.lddt {out} " in screen
    assert f"Wrote 5 structures, predictions.csv and report.html to {out}" in screen and "Device cpu;" in screen


def test_what_is_done_is_not_folded_again(predict, fasta, tmp_path, capsys):
    out = predict(fasta(a=SEQUENCES["a"], b=SEQUENCES["b"]))
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.cif")}
    (out / "b.pdb").unlink()
    capsys.readouterr()
    predict(fasta(**SEQUENCES))
    assert "Folding 4 sequences, 1 of them are done" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.cif")}
    assert after["a.cif"] == before["a.cif"] and after["b.cif"] > before["b.cif"]
    assert [row["name"] for row in rows(out)] == list(SEQUENCES)
    predict(fasta(d=SEQUENCES["d"]))
    assert [row["name"] for row in rows(out)] == ["d", "a", "b", "c"], "rows of earlier inputs stay"


def test_a_killed_command_goes_on(run_path, fasta, tmp_path):
    """Killed without a chance to say anything, after its first rows; the half line of a kill is made by hand."""
    many = {f"s{i}": "MKTAYIAKQR" * (1 + i // 8) + "ACDEFGHI"[i % 8] for i in range(64)}
    path, out = fasta(**many), tmp_path / "out"
    words = ["--run", run_path, "--fasta", path, "--out", out, "--device", "cpu", "--batch-residues", "1"]
    command = [sys.executable, "-m", "pipeline.predict", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    table = out / "predictions.csv"
    deadline = time.monotonic() + 240
    while not (table.is_file() and table.read_bytes().count(b"\n") > 5):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with table.open("a") as stream:
        stream.write('s63,s63.pdb,done,"half a')
    survivors = {row["name"]: row for row in rows(out) if row["name"] != "s63"}
    assert 5 <= len(survivors) < 64
    assert main([str(word) for word in words]) == 0
    found = {row["name"]: row for row in rows(out)}
    assert list(found) == list(many) and all((out / row["file"]).is_file() for row in found.values())
    assert all(found[name] == row for name, row in survivors.items()), "seconds and all: it was not folded again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_keeps_its_table(predict, fasta, capsys, monkeypatch, number):
    def fold(model, part, *rest):
        if any(query.name == "c" for query in part):
            signal.raise_signal(number)
        return fold_batch(model, part, *rest)

    path = fasta(**SEQUENCES)
    monkeypatch.setattr(engine, "fold_batch", fold)
    out = predict(path, "--batch-residues", 1, code=130)
    assert [row["name"] for row in rows(out)] == ["a", "b", "d"] and not list(out.glob(".*"))
    captured = capsys.readouterr()
    assert captured.err.strip() == "interrupted: the same command goes on"
    assert "Wrote 3 structures, predictions.csv to" in captured.out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    predict(path)
    assert [row["status"] for row in rows(out)] == ["done"] * 4


def test_other_settings_are_another_directory(predict, fasta, capsys, weights_path):
    path = fasta(a=SEQUENCES["a"])
    out = predict(path)

    def error(*arguments, fasta=path, **keywords) -> str:
        capsys.readouterr()
        predict(fasta, *arguments, code=2, **keywords)
        text = capsys.readouterr().err.strip()
        assert len(text.splitlines()) == 1 and "use another --out, or --overwrite" in text
        return text

    assert "(--recycles was 1, now 0)" in error("--recycles", 0)
    assert "(--format was both, now pdb)" in error("--format", "pdb", "--resume")
    assert re.search(r"\(--run or --checkpoint was .*, step [1-9]\d*, now .*, step 0\)", error("--checkpoint", 0))
    assert "--run or --checkpoint was " in error(run=weights_path)
    assert "another sequence under the name 'a'" in error(fasta=fasta("other.fasta", a="MKTAY"))
    (out / "unrelated.txt").write_text("mine")
    predict(fasta(b=SEQUENCES["b"]), "--overwrite", "--format", "pdb")
    assert sorted(path.name for path in out.iterdir() if path.suffix in (".pdb", ".cif", ".txt")) == [
        "b.pdb",
        "unrelated.txt",
    ]
    (out / "predictions.json").unlink()
    assert "holds predictions.csv but no predictions.json" in error()
    (out / "predictions.csv").write_text("name,file\nx,y\n")
    (out / "predictions.json").write_text("{}")
    assert "predictions.json: cannot be read" in error()


def test_parts_of_an_array_of_jobs(predict, fasta, capsys):
    path = fasta(**SEQUENCES, bad="M1")
    names = []
    for part in (1, 2, 3):
        out = predict(path, "--shard", f"{part}/3", code=1 if part == 1 else 0)
        names += [row["name"] for row in rows(out, f"predictions.{part}-of-3.csv")]
    assert sorted(names) == ["a", "b", "bad", "c", "d"]
    assert "Next, when all parts are done: the same command without --shard" in capsys.readouterr().out
    predict(path, code=1)
    assert "Folding 4 sequences, 4 of them are done" in capsys.readouterr().out
    assert [row["name"] for row in rows(out)] == [*SEQUENCES, "bad"]


def test_two_commands_in_one_directory(predict, fasta, tmp_path, capsys):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".predictions.csv.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        predict(fasta(a=SEQUENCES["a"]), code=2)
        assert "another command is writing it" in capsys.readouterr().err
        predict(fasta(a=SEQUENCES["a"]), "--shard", "1/2")


def test_several_devices_give_the_same_even_if_a_process_is_killed(predict, run_path, fasta, tmp_path):
    many = {f"s{i}": "MKTAYIAKQR" * (1 + i // 8) + "ACDEFGHI"[i % 8] for i in range(40)}
    path, out = fasta(**many), tmp_path / "two"
    words = ["--run", run_path, "--fasta", path, "--out", out, "--batch-residues", "60", "--device", "cpu,cpu"]
    command = [sys.executable, "-m", "pipeline.predict", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    table, deadline = out / "predictions.csv", time.monotonic() + 240
    while not (table.is_file() and table.read_bytes().count(b"\n") > 1):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
    os.kill(children[0].pid, signal.SIGKILL)
    stdout, _ = process.communicate(timeout=480)
    assert process.returncode == 0, stdout
    one = rows(predict(path, "--batch-residues", 60, out="one"))
    two = rows(out)
    assert [row["name"] for row in two] == list(many) and {row["status"] for row in two} == {"done"}
    for a, b in zip(one, two, strict=True):
        assert float(a["mean_plddt"]) == pytest.approx(float(b["mean_plddt"]), abs=0.02)


def test_a_sequence_too_long_for_the_memory_is_a_row(predict, fasta):
    out = predict(fasta(long="MKTAYIAKQR" * 1000, short="MKTAY"), "--max-memory", "1G", code=1)
    long, short = rows(out)
    assert short["status"] == "done" and long["status"] == "failed" and long["length"] == "10000"
    assert "10000 residues need about" in long["reason"] and "1.0 GiB are free" in long["reason"]


def test_published_weights_as_a_run(predict, fasta, weights_path, capsys):
    out = predict(fasta(a=SEQUENCES["a"], c=SEQUENCES["c"]), "--weights", weights_path, run="esmfold_v1")
    a, c = rows(out)
    assert 0 < float(a["ptm"]) < 1 and not a["iptm"] and 0 < float(c["iptm"]) < 1
    (error,) = json.loads((out / "c.pae.json").read_text())
    matrix = error["predicted_aligned_error"]
    assert len(matrix) == 18 and all(len(row) == 18 for row in matrix) and error["max_predicted_aligned_error"] == 31.75
    assert all(isinstance(value, int) and 0 <= value <= 32 for row in matrix for value in row)
    assert "esmfold_v1: 2 blocks over esm2_t3_demo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shard", "4/3"), "--shard '4/3' is not I/N"),
        (("--max-memory", "lots"), "--max-memory lots: a size such as"),
        (("--batch-residues", "0"), "--batch-residues must be above 0"),
        (("--overwrite", "--shard", "1/2"), "--overwrite with --shard"),
        (("--cpu-threads", "100000"), "--cpu-threads must be from 0 to 1024"),
        (("--recycles", "-1"), "--recycles must not be below 0"),
        (("--weights", "x.pt"), "is a run, which has its weights"),
        (("--device", "cpu,tpu9"), "device 'tpu9' cannot be used here"),
        (("--device", "meta"), "device 'meta' cannot be used here"),
        (("--run", "esmfold_v7"), "no such run directory, and not the name of a published model"),
        (("--run", "esmfold_v1", "--weights", "gone.pt"), "gone.pt: no such file"),
        (("--run", "esmfold_v1", "--checkpoint", "3"), "published weights have no steps"),
        (("--checkpoint", "77"), "no checkpoint of step 77"),
    ],
)
def test_mistakes_are_one_line(predict, fasta, capsys, tmp_path, arguments, message):
    predict(fasta(a="MKT"), *arguments, code=2)
    text = capsys.readouterr().err.strip()
    assert message in text and len(text.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_sizes():
    assert parse_size("512M") == 512 << 20 and parse_size("1.5GiB") == 3 << 29 and parse_size("20g") == 20 << 30
