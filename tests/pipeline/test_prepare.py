"""The command from its arguments to the files and the exit status."""

import csv
import gzip
import re
import shutil
import subprocess
import sys

import pytest

from data_prep.dataset.ledger import read_ledger
from data_prep.dataset.store import StructureDataset
from data_prep.structure.io import read_structure, structure_stem, write_mmcif, write_pdb
from pipeline.prepare import main
from tests.data_prep.compare import differences
from tests.pipeline.prepare_demo import DEMO, demo_arguments, files_of


def test_demo_structures(demo):
    dataset = StructureDataset(demo)
    ledger = read_ledger(demo / "ledger.csv")
    assert {row.file for row in ledger} == {path.name for path in DEMO.iterdir()}
    assert sorted(row.id for row in ledger if row.status == "accepted") == sorted(dataset.ids())
    assert [row.reason[:21] for row in ledger if row.status != "accepted"] == ["not a structure file:"]
    assert len(dataset) == 34 and len(dataset.ids("val")) == 3
    for row in dataset.table.to_pylist():
        assert row["split"] == "train" or (row["nearest_train_identity"] or 0) < 0.4
    name = dataset.ids("val")[0]
    path = next(path for path in DEMO.iterdir() if name.startswith(structure_stem(path)))
    record = next(record for record in read_structure(path) if record.id == name)
    assert differences(record, dataset.load(name)) == []
    assert dataset.load(name).source_file == path.name


def test_dry_run_writes_nothing(tmp_path, capsys):
    before = files_of(DEMO)
    assert main(["--pdb-dir", str(DEMO), "--dry-run", "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"structure files to read +│ 33 ", shown) and re.search(r"chains accepted +│ about 34 ", shown)
    assert files_of(DEMO) == before


def test_strict_is_about_files_that_could_not_be_used(tmp_path):
    shutil.copy(DEMO / "1aki_A.pdb.gz", tmp_path / "x.pdb.gz")
    (tmp_path / "notes.txt").write_text("no structure, and none expected")
    arguments = ["--pdb-dir", str(tmp_path), "--strict", "--jobs", "1", "--out"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "empty.pdb").touch()
    assert main([*arguments, str(tmp_path / "two")]) == 1
    assert (tmp_path / "two/dataset.json").exists()


def test_one_file_a_list_of_files_and_a_list_of_chains(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--pdb-dir", str(DEMO / "1aki_A.pdb.gz"), "--out", str(out), "--jobs", "1"]) == 0
    assert StructureDataset(out).ids() == ["1aki_A_A"]
    (tmp_path / "list").write_text("2igd_A.pdb.gz\n1aki_A.pdb.gz\nabsent.pdb\n")
    arguments = ["--pdb-dir", str(DEMO), "--list", str(tmp_path / "list"), "--jobs", "1"]
    assert main([*arguments, "--out", str(tmp_path / "two")]) == 0
    assert StructureDataset(tmp_path / "two").ids() == ["1aki_A_A", "2igd_A_A"]
    rows = {row.file: row for row in read_ledger(tmp_path / "two/ledger.csv")}
    assert rows["absent.pdb"].reason == "cannot be read: No such file or directory" and len(rows) == 3
    (tmp_path / "ids").write_text("2igd_A_A\n")
    assert main([*arguments, "--ids", str(tmp_path / "ids"), "--out", str(tmp_path / "three")]) == 0
    assert StructureDataset(tmp_path / "three").ids() == ["2igd_A_A"]
    (tmp_path / "ids").write_text("\ufeff  # mine\n2igd_A_A\r\n1aki_A_A\n1aki_A_B\n", newline="")
    options = ["--ids", str(tmp_path / "ids"), "--min-length", "61", "--max-length", "61"]
    assert main([*arguments, *options, "--out", str(tmp_path / "four")]) == 0
    rows = [(row.file, row.chain, row.reason) for row in read_ledger(tmp_path / "four/ledger.csv")]
    assert rows[0] == ("", "1aki_A_B", "asked for, but no file has such a chain"), "nothing asked for goes missing"
    assert rows[1] == ("1aki_A.pdb.gz", "A", "too long: 129 residues (maximum 61)") and rows[2][0] == "2igd_A.pdb.gz"


def test_all_models_are_records_of_one_cluster(tmp_path):
    lines = gzip.decompress((DEMO / "1aki_A.pdb.gz").read_bytes()).decode().splitlines()
    atoms = [line for line in lines if line.startswith("ATOM")]
    kept = [atoms, atoms[:300], atoms[-250:], atoms[:40]]
    text = "\n".join(line for n, part in enumerate(kept, 1) for line in (f"MODEL     {n:4d}", *part, "ENDMDL"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/nmr.pdb").write_text(text)
    shutil.copy(DEMO / "2igd_A.pdb.gz", tmp_path / "in")
    out = tmp_path / "out"
    arguments = ["--pdb-dir", str(tmp_path / "in"), "--out", str(out), "--jobs", "1", "--val-fraction", "0.5"]
    assert main([*arguments, "--model", "all"]) == 0
    index = {row["id"]: row for row in StructureDataset(out).table.to_pylist()}
    models = ["nmr_A.m1", "nmr_A.m2", "nmr_A.m3"]
    assert list(index) == ["2igd_A_A", *models]
    assert [index[name]["model_number"] for name in models] == [1, 2, 3]
    assert {(index[name]["cluster"], index[name]["cluster_size"]) for name in models} == {(1, 3)}
    (short,) = [row for row in read_ledger(out / "ledger.csv") if row.status == "rejected"]
    assert (short.file, short.chain) == ("nmr.pdb", "A")
    assert short.reason == "too short: 5 residues (minimum 20), in model 4"
    assert main([*arguments, "--overwrite", "--model", "2"]) == 0
    assert StructureDataset(out).ids() == ["nmr_A"], "the other file has no model 2, which the ledger says"
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--model", "first"])
    assert stopped.value.code == 2


def test_verify_finds_what_changed(demo, tmp_path, capsys):
    assert main(["--verify", str(demo)]) == 0
    copy = tmp_path / "copy"
    shutil.copytree(demo, copy)
    shard = copy / "shards/00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    wrong_name, wrong_type = data.replace(b"b_factors", b"b_fbctors"), data.replace(b"F32", b"I32")
    (copy / "README.md").unlink()
    (copy / "more.txt").touch()
    assert main(["--verify", str(copy)]) == 1
    shown = capsys.readouterr().out
    for message in ("safetensors: its content has changed", "README.md: cannot be read", "more.txt: does not belong"):
        assert message in shown
    for damage in (
        data[: len(data) // 2],
        b"",
        bytes(8) + data[8:],
        data[:8] + b"x" + data[9:],
        wrong_name,
        wrong_type,
    ):
        shard.write_bytes(damage)
        assert main(["--verify", str(copy)]) == 1
        assert "cannot be loaded" in capsys.readouterr().out
    for name in ("ledger.csv", "index.parquet", "SHA256SUMS", "dataset.json"):
        sound = (demo / name).read_bytes()
        for damaged in (sound[:-40], sound[:300], b"", b"a,b\n1,2\n", sound.replace(b"file", b"fi\0e"), sound[::-1]):
            (copy / name).write_bytes(damaged)
            assert main(["--verify", str(copy)]) in (1, 2), (name, damaged[:40])
        (copy / name).write_bytes(sound)
    assert main(["--verify", str(tmp_path)]) == 2


def test_recipes_and_values_that_override_them(tmp_path):
    def rejected(*options: str) -> dict[str, str]:
        out = tmp_path / "out"
        assert main(demo_arguments(out, "--overwrite", *options)) == 0
        return {row.file: row.reason for row in read_ledger(out / "ledger.csv") if row.chain and not row.id}

    esmfold = rejected("--recipe", "esmfold")
    assert all(reason.startswith(("released too late", "release date: none stated")) for reason in esmfold.values())
    assert esmfold
    settings = StructureDataset(tmp_path / "out").description["settings"]["reading"]["filters"]
    assert settings["released_before"] == "2020-05-02"
    assert rejected("--recipe", "openfold") == {}
    strict = rejected("--recipe", "openfold", "--max-resolution", "1.5", "--no-keep-unstated-resolution")
    assert strict and all(reason.startswith("resolution: ") for reason in strict.values())


def test_summary_and_next_step(tmp_path, capsys):
    shutil.copy(DEMO / "1aki_A.pdb.gz", tmp_path / "x.pdb.gz")
    (tmp_path / "empty.pdb").touch()
    out = tmp_path / "out"
    assert main(["--pdb-dir", str(tmp_path), "--out", str(out)]) == 0
    shown, progress = capsys.readouterr()
    assert re.search(r"reading files .* 2/2 +[0-9,]+/s 0:00:0\d left 0:00:00", progress)
    assert f"next: python -m pipeline.train --data {out} --out RUN" in shown
    assert re.search(r"chains accepted +│ 1 ", shown) and re.search(r"unreadable │ empty file +│ 1 +│ empty.pdb", shown)
    assert "No validation chains" in shown


def test_duplicates(tmp_path, capsys):
    """One stem in two directories: the path tells them apart. One content: all are used, in one cluster, and say so."""
    source = (DEMO / "1aki_A.pdb.gz").read_bytes()
    for name in ("x.pdb.gz", "a.pdb.gz", "b.pdb.gz"):
        (tmp_path / name).write_bytes(source)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/X.ent.gz").write_bytes(source)
    shutil.copy(DEMO / "2igd_A.pdb.gz", tmp_path)
    (tmp_path / "2igd_A.cif").touch()  # empty, so that the name is not in doubt
    assert main(["--pdb-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--val-fraction", "0.5"]) == 0
    rows = {row.file: (row.status, row.reason) for row in read_ledger(tmp_path / "out/ledger.csv")}
    assert rows == {
        "2igd_A.cif": ("unreadable", "empty file (0 bytes)"),
        "2igd_A.pdb.gz": ("accepted", rows["2igd_A.pdb.gz"][1]),
        "a.pdb.gz": ("accepted", "same content as b.pdb.gz, sub/X.ent.gz, x.pdb.gz"),
        "b.pdb.gz": ("accepted", "same content as a.pdb.gz, sub/X.ent.gz, x.pdb.gz"),
        "sub/X.ent.gz": ("accepted", "same content as a.pdb.gz, b.pdb.gz, x.pdb.gz"),
        "x.pdb.gz": ("accepted", "same content as a.pdb.gz, b.pdb.gz, sub/X.ent.gz"),
    }
    index = {row["id"]: row for row in StructureDataset(tmp_path / "out").table.to_pylist()}
    assert index.keys() == {"2igd_A_A", "a_A", "b_A", "sub_X_A", "x_A"}
    assert index["a_A"]["split"] == index["sub_X_A"]["split"] and index["a_A"]["cluster_size"] == 4
    assert index["a_A"]["warnings"] == ["same content as b.pdb.gz, sub/X.ent.gz, x.pdb.gz"]


def test_formats_of_one_structure_are_one(tmp_path):
    """As predict writes them: mmCIF is read, whatever else lies beside it."""
    source = read_structure(DEMO / "1aki_A.pdb.gz", name="x")
    write_pdb(tmp_path / "x.pdb", source)
    write_mmcif(tmp_path / "x.cif", source)
    assert main(["--pdb-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    rows = [(row.file, row.status, row.reason) for row in read_ledger(tmp_path / "out/ledger.csv")]
    assert rows == [("x.cif", "accepted", ""), ("x.pdb", "rejected", "same name as x.cif, which is read in its place")]


def test_many_files_of_one_name_or_content_name_a_few_of_each_other(tmp_path):
    """As the directories that AlphaFold writes; all names in every row would be the square of their number."""
    source = (DEMO / "2igd_A.pdb.gz").read_bytes()
    for number in range(10):
        (tmp_path / f"in/{number}").mkdir(parents=True)
        (tmp_path / f"in/{number}/ranked_0.pdb.gz").write_bytes(source)
        (tmp_path / f"in/x{number}.pdb.gz").write_bytes(source)
    assert main(["--pdb-dir", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    rows = {row.file: row.reason for row in read_ledger(tmp_path / "out/ledger.csv")}
    names = ", ".join(f"{number}/ranked_0.pdb.gz" for number in range(5))
    assert rows["x9.pdb.gz"].endswith(f"same content as {names} and 14 more")
    assert len(StructureDataset(tmp_path / "out").ids()) == 20


def test_ids_that_would_collide(tmp_path):
    """Chain A of 1x.pdb and the chain without an id of 1x_A.pdb would both be 1x_A."""
    text = gzip.decompress((DEMO / "1aki_A.pdb.gz").read_bytes()).decode().splitlines()
    (tmp_path / "1x.pdb").write_text("\n".join(text))
    blank = [line[:21] + " " + line[22:] for line in text if line.startswith("ATOM")]
    (tmp_path / "1x_A.pdb").write_text("\n".join(blank))
    assert main(["--pdb-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    rows = read_ledger(tmp_path / "out/ledger.csv")
    assert [(row.file, row.status) for row in rows] == [("1x.pdb", "accepted"), ("1x_A.pdb", "rejected")]
    assert rows[1].reason.startswith("id taken: 1x_A is a chain of another file")


def test_a_name_too_long_for_an_id_costs_only_its_file(tmp_path):
    """Letters that are no ASCII take five bytes each in an id."""
    (tmp_path / "in").mkdir()
    shutil.copy(DEMO / "2igd_A.pdb.gz", tmp_path / "in")
    for name in ("x" * 240 + ".pdb.gz", "\u4e2d" * 70 + ".pdb.gz"):
        shutil.copy(DEMO / "1aki_A.pdb.gz", tmp_path / "in" / name)
    assert main(["--pdb-dir", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    rows = read_ledger(tmp_path / "out/ledger.csv")
    assert [(row.file[:3], row.status) for row in rows] == [
        ("2ig", "accepted"), ("xxx", "rejected"), ("\u4e2d" * 3, "rejected")
    ]  # fmt: skip
    assert all(row.reason.startswith("id cannot be the name of a file: ") for row in rows[1:])


def test_a_dataset_among_its_input(demo, tmp_path, monkeypatch):
    """The dataset and its work lie under the directory that is read: they are no input, however often it is read."""
    root = tmp_path / "in"
    shutil.copytree(DEMO, root)
    arguments = ["--pdb-dir", str(root), "--out", str(root / "data"), "--identity", "0.4", "--jobs", "1"]
    assert main([*arguments, "--shard", "1/1"]) == 0
    assert main(arguments) == 0
    assert files_of(root / "data") == files_of(demo)
    monkeypatch.chdir(root)
    assert main(["--pdb-dir", ".", "--out", "data", "--identity", "0.4", "--jobs", "1", "--overwrite"]) == 0
    assert files_of(root / "data") == files_of(demo)


def test_filters_and_val_ids(tmp_path, demo):
    ids = tmp_path / "val.txt"
    ids.write_text("# chosen\n1aki_A_A\n\nd1asha__A\n")
    arguments = ["--pdb-dir", str(DEMO), "--out", str(tmp_path / "out"), "--val-ids", str(ids), "--jobs", "1"]
    assert main([*arguments, "--min-length", "100", "--identity", "0.4"]) == 0
    dataset = StructureDataset(tmp_path / "out")
    assert dataset.ids("val") == ["1aki_A_A", "d1asha__A"]
    assert min(row["length"] for row in dataset.table.to_pylist()) >= 100
    short = [row for row in read_ledger(tmp_path / "out/ledger.csv") if row.reason.startswith("too short")]
    assert [(row.file, row.reason) for row in short] == [
        ("1cyo_A.pdb.gz", "too short: 93 residues (minimum 100)"),
        ("2igd_A.pdb.gz", "too short: 61 residues (minimum 100)"),
    ]


def test_a_relative_of_a_validation_chain_says_why_it_is_in_no_split(tmp_path):
    for name in ("a", "b"):
        shutil.copy(DEMO / "1aki_A.pdb.gz", tmp_path / f"{name}.pdb.gz")
    shutil.copy(DEMO / "2igd_A.pdb.gz", tmp_path)
    (tmp_path / "val").write_text("a_A\n")
    arguments = ["--pdb-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--val-ids", str(tmp_path / "val")]
    assert main(arguments) == 0
    reasons = {row.id: row.reason for row in read_ledger(tmp_path / "out/ledger.csv") if row.id}
    assert reasons["b_A"].endswith("in no split: related to a chain that is held out by its id")
    assert "in no split" not in reasons["a_A"] + reasons["2igd_A_A"]


def test_ids_to_validate_on_that_were_left_out_say_why(tmp_path, capsys):
    (tmp_path / "val").write_text("2igd_A_A\n1aki_A_B\n")
    assert main(demo_arguments(tmp_path / "out", "--min-length", "100", "--val-ids", str(tmp_path / "val"))) == 2
    message = "2 validation ids are not in the dataset: 1aki_A_B, 2igd_A_A (too short: 61 residues (minimum 100))"
    assert capsys.readouterr().err.rstrip().endswith(message)


def test_split_by_date_and_a_test_set(tmp_path):
    ids = tmp_path / "test.txt"
    ids.write_text("1aki_A_A\n")
    out = tmp_path / "out"
    dates = sorted(row["release_date"] for row in _demo_index(tmp_path) if row["release_date"])
    border = dates[len(dates) // 2]
    assert main(demo_arguments(out, "--val-from", border, "--test-ids", str(ids))) == 0
    index = StructureDataset(out).table.to_pylist()
    assert [row["id"] for row in index if row["split"] == "test"] == ["1aki_A_A"]
    for row in index:
        if row["split"] in ("train", "val"):
            assert (row["release_date"] >= border) == (row["split"] == "val")
    train = {row["cluster"] for row in index if row["split"] == "train"}
    held_out = {row["cluster"] for row in index if row["split"] in ("val", "test")}
    assert train and held_out and not train & held_out


def _demo_index(tmp_path) -> list[dict]:
    assert main(demo_arguments(tmp_path / "all", "--val-fraction", "0")) == 0
    return StructureDataset(tmp_path / "all").table.to_pylist()


def test_predictions_are_read_as_such_only_when_told(tmp_path, capsys):
    lines = gzip.decompress((DEMO / "1aki_A.pdb.gz").read_bytes()).decode().splitlines()
    first = next(line[22:26] for line in lines if line.startswith("ATOM"))
    (tmp_path / "p.pdb").write_text(
        "\n".join(
            f"{line[:60]}{20 if line[22:26] == first else 90:6.2f}{line[66:]}" for line in lines if line[:4] == "ATOM"
        )
    )
    arguments = ["--pdb-dir", str(tmp_path / "p.pdb"), "--jobs", "1", "--out"]
    assert main([*arguments, str(tmp_path / "plain")]) == 0
    assert main([*arguments, str(tmp_path / "plddt"), "--plddt-bfactor"]) == 0
    assert main([*arguments, str(tmp_path / "no"), "--min-plddt", "70"]) == 2
    assert "--min-plddt: needs --plddt-bfactor" in capsys.readouterr().err
    plain, masked = (StructureDataset(tmp_path / name).load("p_A") for name in ("plain", "plddt"))
    assert plain.observed.all() and masked.observed.tolist() == [False] + [True] * (len(plain) - 1)


def test_starts_without_the_model_and_names_its_options(tmp_path):
    code = "import sys, pipeline.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    shown = subprocess.run(
        [sys.executable, "-m", "pipeline.prepare", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "python -m pipeline.prepare --pdb-dir structures/ --out data/" in shown
    assert subprocess.run([sys.executable, "-m", "pipeline.prepare"], capture_output=True).returncode == 2


def test_a_whole_directory_of_bad_inputs(bad_inputs_dir, tmp_path):
    """Every file of the table is in the ledger with the status that the table states, in one run that exits 0."""
    root = bad_inputs_dir / "files"
    assert main(["--pdb-dir", str(root), "--out", str(tmp_path / "out"), "--jobs", "1", "--min-length", "10"]) == 0
    rows: dict[str, list] = {}
    for row in read_ledger(tmp_path / "out/ledger.csv"):
        rows.setdefault(row.file, []).append(row)
    assert set(rows) == {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    with open(bad_inputs_dir / "expected.csv", newline="") as file:
        cases = [case for case in csv.DictReader(file) if case["stage"] in ("both", "prepare")]
    stems: dict[str, int] = {}
    for file in rows:
        stems[structure_stem(file)] = stems.get(structure_stem(file), 0) + 1
    for case in cases:
        file = case["path"].removeprefix("files/")
        if file not in rows:
            continue  # a directory or a link, which the table lists too
        if "stem" in case["case"] and stems[structure_stem(file)] < 2:
            continue  # its partner is not in this set; test_duplicates has both
        statuses = {row.status for row in rows[file]}
        expected = case["expected_status"]
        if expected == "ok":
            assert statuses == {"accepted"}, case
        elif expected == "error":
            assert "accepted" not in statuses and all(row.reason for row in rows[file]), case
        elif expected == "warning":
            assert statuses == {"accepted"} and any(row.reason for row in rows[file]), case
        elif expected == "skip":
            assert statuses == {"rejected"} and rows[file][0].reason.endswith(("ignored", "(.gz)")), case
