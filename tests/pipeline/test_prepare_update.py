"""``--update``: a finished dataset whose input has changed becomes what a fresh run would write, with less reading."""

import gzip
import os
import shutil

import pytest

from data_prep.dataset import blocks, build
from data_prep.dataset.ledger import read_ledger
from data_prep.dataset.store import StructureDataset
from pipeline.prepare import main
from tests.pipeline.prepare_demo import DEMO, files_of

NAMES = sorted(path.name for path in DEMO.iterdir() if path.name.endswith(".gz"))


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The files that were read, in order."""
    names: list[str] = []

    def reading(call):
        def wrapped(root, file, settings):
            names.append(file)
            return call(root, file, settings)

        return wrapped

    for module in (blocks, build):
        monkeypatch.setattr(module, "ingest_file", reading(module.ingest_file))
    return names


@pytest.fixture
def source(tmp_path):
    """A directory of some of the bundled structures, and of what is none or damaged."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in NAMES[:12]:
        shutil.copy(DEMO / name, folder)
    shutil.copy(DEMO / NAMES[3], folder / "sub" / "other.pdb.gz")  # of the same content as another
    (folder / "damaged.pdb").write_text("nothing")
    (folder / "notes.txt").write_text("no structure")
    return folder


def prepare(source, out, *options: str) -> int:
    return main(["--pdb-dir", str(source), "--out", str(out), "--jobs", "1", "--val-fraction", "0.3", *options])


def check_like_a_fresh_run(source, out, *options: str) -> None:
    fresh = out.with_name("fresh")
    assert prepare(source, fresh, *options, "--overwrite") == 0
    assert files_of(out) == files_of(fresh)
    shutil.rmtree(fresh)
    assert main(["--verify", str(out)]) == 0
    assert not [path.name for path in out.parent.iterdir() if path.name.startswith(".")], "no work is left behind"


def test_only_what_is_new_or_changed_is_read_and_the_end_is_that_of_a_fresh_run(source, tmp_path, read, capsys):
    out = tmp_path / "data"
    assert prepare(source, out, "--update") == 0, "there is no dataset yet: an ordinary run"
    for name in NAMES[12:16]:
        shutil.copy(DEMO / name, source)
    (source / NAMES[0]).unlink()
    text = gzip.decompress((source / NAMES[1]).read_bytes())
    (source / NAMES[1]).write_bytes(gzip.compress(text[: len(text) // 2]))
    os.utime(source / NAMES[2], (1, 1))  # looked at, not changed
    read.clear()
    capsys.readouterr()
    assert prepare(source, out, "--update", "--dry-run") == 0
    line = "files to read: 4 new, 1 changed, 1 again; taken over: 11; gone since: 1"
    assert capsys.readouterr().out.strip() == line and not read
    assert prepare(source, out, "--update") == 0
    assert f"update: {line}" in capsys.readouterr().out
    assert sorted(read) == sorted([*NAMES[12:16], NAMES[1], "damaged.pdb"])
    reason = {row.file: row.reason for row in read_ledger(out / "ledger.csv")}
    assert reason["sub/other.pdb.gz"].endswith(f"same content as {NAMES[3]}")
    check_like_a_fresh_run(source, out)


def test_without_changes_nothing_is_read_or_written(source, tmp_path, read, capsys):
    out = tmp_path / "data"
    (source / "damaged.pdb").unlink()
    assert prepare(source, out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    read.clear()
    assert prepare(source, out, "--update") == 0
    assert "update: files to read: none; taken over: 13; gone since: 0" in capsys.readouterr().out
    assert not read and {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    (source / "notes.txt").unlink()
    assert prepare(source, out, "--update") == 0
    assert not read
    check_like_a_fresh_run(source, out)


def test_what_other_files_decide_is_decided_anew(source, tmp_path, read):
    """A stem that is there twice now, a repeated sequence whose better one is gone, an id that is free now."""
    out = tmp_path / "data"
    shutil.copy(DEMO / NAMES[4], source / "sub" / NAMES[5])  # in another directory under the stem of another
    shutil.copy(DEMO / NAMES[6], source / NAMES[6].upper().replace(".PDB.GZ", ".X.pdb.gz"))
    options = ("--unique-sequences",)
    assert prepare(source, out, *options) == 0
    (source / NAMES[3]).unlink()
    (source / NAMES[5]).unlink()
    shutil.copy(DEMO / NAMES[13], source / "other.pdb.gz")
    read.clear()
    assert prepare(source, out, *options, "--update") == 0
    assert len(read) < 10 and {"other.pdb.gz", "sub/other.pdb.gz"} <= set(read), "its id has the path now"
    check_like_a_fresh_run(source, out, *options)


def test_formats_of_one_structure_are_not_read_to_see_whether_they_can_be(source, tmp_path, read):
    out = tmp_path / "data"
    shutil.copy(source / NAMES[2], source / NAMES[2].replace(".pdb.gz", ".ent.gz"))
    assert prepare(source, out) == 0
    shutil.copy(DEMO / NAMES[20], source)
    read.clear()
    assert prepare(source, out, "--update") == 0
    assert sorted(read) == sorted([NAMES[20], "damaged.pdb"])
    check_like_a_fresh_run(source, out)


def test_chains_asked_for_and_models(source, tmp_path, read):
    out = tmp_path / "data"
    stems = [name.split(".")[0] for name in NAMES[:14]]
    (tmp_path / "ids").write_text("".join(f"{stem}_A\n" for stem in stems) + "absent_A\n")
    options = ("--ids", str(tmp_path / "ids"), "--model", "all", "--max-length", "150", "--plddt-bfactor")
    assert prepare(source, out, *options) == 0
    shutil.copy(DEMO / NAMES[12], source)
    read.clear()
    assert prepare(source, out, *options, "--update") == 0
    assert NAMES[12] in read
    check_like_a_fresh_run(source, out, *options)


def test_another_split_is_made_without_reading_and_what_changes_sides_is_said(source, tmp_path, read, capsys):
    out = tmp_path / "data"
    (source / "damaged.pdb").unlink()
    assert prepare(source, out) == 0
    before = StructureDataset(out)
    held = set(before.ids("val"))
    read.clear()
    capsys.readouterr()
    assert prepare(source, out, "--update", "--seed", "3") == 0
    now = set(StructureDataset(out).ids("val"))
    shown = capsys.readouterr().out
    assert not read and held != now
    assert f"{len(now - held)} chains that were for training are held out now, {len(held - now)} that were" in shown
    check_like_a_fresh_run(source, out, "--seed", "3")
    (tmp_path / "val").write_text("\n".join(sorted(held)))
    shutil.copy(DEMO / NAMES[12], source)
    assert prepare(source, out, "--update", "--val-ids", str(tmp_path / "val")) == 0
    assert set(StructureDataset(out).ids("val")) == held


def test_an_interrupted_update_goes_on(source, tmp_path, monkeypatch, small_blocks, read):
    out = tmp_path / "data"
    assert prepare(source, out) == 0
    before = files_of(out)
    for name in NAMES[12:24]:
        shutil.copy(DEMO / name, source)
    make = blocks._make_block
    monkeypatch.setattr(blocks, "_make_block", lambda *work: make(*work) if len(read) < 10 else interrupt())
    read.clear()
    assert prepare(source, out, "--update") == 130
    assert files_of(out) == before
    monkeypatch.setattr(blocks, "_make_block", make)
    assert prepare(source, out, "--update") == 0
    assert len(read) == 13, "the 12 that are new and the damaged one, each once"
    check_like_a_fresh_run(source, out)


def interrupt():
    raise KeyboardInterrupt


def test_what_is_not_updated(source, tmp_path, capsys):
    """One line with the option that helps, and the dataset stays."""
    out = tmp_path / "data"
    assert prepare(source, out) == 0
    before = files_of(out)

    def refused(*options: str) -> str:
        assert prepare(source, out, *options) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert refused().endswith(
        "/data: is a finished dataset; --update adds what is new in the input, --overwrite makes it anew from all "
        "files, another --out leaves it"
    )
    assert "made with other settings (min_length was 20, now 60); repeat its options" in refused(
        "--update", "--min-length", "60"
    )
    assert files_of(out) == before
    description = (out / "dataset.json").read_bytes()
    (out / "dataset.json").write_bytes(description.replace(b'"seed": 0', b'"seed": 1'))
    assert "its content has changed since it was written" in refused("--update")
    assert "--overwrite makes the dataset anew" in refused("--update")
