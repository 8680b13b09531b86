"""Files from strangers: what they hold is never run, names in them stay in their directory, none fills the memory."""

import ast
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lorta
from data_prep.dataset.build import BuildError, read_lines
from data_prep.dataset.ledger import read_ledger
from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.files import bounded_reading
from data_prep.files.bounded_reading import parse_json, read_parquet
from data_prep.files.checksums import damaged_files
from data_prep.files.errors import UserError
from data_prep.files.text import is_file_name
from evaluation.compare import read_scores
from evaluation.targets import read_ids
from pipeline.comparison.variants import ComparisonError, parse_adapters
from pipeline.config.layers import file_layer
from pipeline.config.schema import ConfigError
from pipeline.folding.model_files import WeightsError, read_hugging_face
from pipeline.prediction.directory import PredictionDirectory
from pipeline.prediction.sequences import InputError, read_fasta
from pipeline.runs.directory import RunDirectory, RunError
from tests.datasets import write_dataset
from tests.evaluation.conftest import make_record
from tests.lorta.conftest import Plain

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("data_prep", "lorta", "evaluation", "pipeline", "workflows")
    for path in (ROOT / folder).rglob("*.py")
}
FORBIDDEN_OPTIONS = ("shell", "allow_pickle", "trust_remote_code")


def called(node: ast.Call) -> str:
    """Name of what is called, as ``torch.load``."""
    return ast.unparse(node.func)


def risky(source: str) -> list[str]:
    """Calls that run what a file or a string holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None)
            if {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & {module, *names} and names != [
                "UnpicklingError"
            ]:
                found.append(f"import of {module or names}")
        if not isinstance(node, ast.Call):
            continue
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        name = called(node)
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if name in ("eval", "exec", "os.system", "os.popen", "yaml.load", "pickle.load", "pickle.loads"):
            found.append(name)
        found += [f"{word}={options[word]}" for word in FORBIDDEN_OPTIONS if options.get(word, "False") != "False"]
    return found


def test_the_search_for_risky_calls_finds_them():
    source = "import pickle\ntorch.load(f)\nsubprocess.run(x, shell=True)\nnp.load(f, allow_pickle=True)\nexec(s)"
    assert len(risky(source)) == 5
    assert risky("load(f, trust_remote_code=asked)") == ["trust_remote_code=asked"]
    assert risky("torch.load(f, weights_only=True)\nmodel.eval()\nload(f, trust_remote_code=False)") == []


def test_nothing_that_a_file_holds_is_run():
    assert {name: found for name, source in SOURCES.items() if (found := risky(source))} == {}


WITHOUT_LIMIT = {
    "pipeline/config/device.py": "the system's /proc and /sys",
    "pipeline/comparison/variants.py": "the log of a command that it has just run",
    "pipeline/demo.py": "files of commands that it has just run",
    "data_prep/dataset/blocks.py": "the working directory of the same command",
    "data_prep/dataset/clusters.py": "the output of a command that it has just run",
    "lorta/peft.py": "the card that PEFT has just written where the adapter is saved",
    "workflows/folding_table.py": "outputs of the workflow's other rules",
}


def test_whole_files_are_read_up_to_a_limit():
    """By ``bounded_reading``, ``structure_bytes`` and ``lorta.storage``, and never by ``Path.read_text``."""
    unlimited = set()
    for name, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and node.attr in ("read_text", "read_bytes"):
                place = ast.unparse(node.value)
                if not any(word in place for word in ("resources.files", "folder.joinpath")):  # of the package
                    unlimited.add(name)
    assert unlimited == set(WITHOUT_LIMIT)


def dataset_with(tmp_path, column: str, value: object) -> Path:
    """A dataset of one record, whose index has been changed."""
    path = tmp_path / "dataset"
    write_dataset(path, [make_record("ACDEF")])
    table = pq.read_table(path / "index.parquet")
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.array([value])), path / "index.parquet")
    return path


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("id", "../x", "no name of a file"),
        ("id", "/tmp/x", "no name of a file"),
        ("id", "a\\b", "no name of a file"),
        ("id", "C:x", "no name of a file"),
        ("id", "a\0b", "no name of a file"),
        ("id", "", "no name of a file"),
        ("id", "..", "no name of a file"),
        ("id", "x" * 300, "no name of a file"),
        ("shard", "../../x", "has string as shard, expected int32"),
        ("residue_start", -5, "negative residue_start"),
        ("sequence", None, "blank sequence"),
    ],
)
def test_an_index_is_not_trusted(tmp_path, column, value, message):
    path = dataset_with(tmp_path, column, value)
    with pytest.raises(DatasetError, match=message):
        StructureDataset(path)


def test_an_id_that_is_no_file_name_is_not_written(tmp_path):
    with pytest.raises(DatasetError, match="cannot be the name of a file"):
        write_dataset(tmp_path / "d", [replace(make_record("ACDEF"), id="../x")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["1abc_A", "x.y-z+1", "a%2Fb", "é", "<b>"])
def test_names_that_stay_in_their_directory(name, tmp_path):
    assert is_file_name(name)
    assert (tmp_path / f"{name}.pdb").resolve().parent == tmp_path.resolve()


def test_methods_and_tasks_are_names_of_directories():
    from pipeline.lm.grid import Grid, cells

    with pytest.raises(ComparisonError, match=r"'\.\./x' is not a method"):
        parse_adapters("../x:1")
    with pytest.raises(ConfigError, match=r"adapter\.method = '\.\./x'"):
        cells(Grid("sft", method={"../x": {}}), {})
    with pytest.raises(ConfigError, match=r"task '\.\./x' is unknown"):
        cells(Grid("nlu", method={"lora": {}}, tasks=("../x",)), {})


def test_shards_of_published_weights_are_in_their_directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
    with pytest.raises(WeightsError, match="outside its directory"):
        read_hugging_face(tmp_path)


def adapter(path: Path) -> None:
    lorta.load(Plain(), path.parent)


def predictions(path: Path) -> None:
    (path.parent / "predictions.json").write_text('{"settings": {}}')
    with PredictionDirectory(path.parent) as directory:
        directory.open({}, {}, overwrite=False)


READERS = {
    "x.toml": (file_layer, ConfigError),
    "run.json": (lambda path: RunDirectory(path.parent).info(), RunError),
    "summary.json": (lambda path: RunDirectory(path.parent).summary(), RunError),
    "dataset.json": (lambda path: StructureDataset(path.parent), DatasetError),
    "config.json": (lambda path: read_hugging_face(path.parent), OSError),
    "adapter_config.json": (adapter, ValueError),
    "x.fasta": (read_fasta, InputError),
    "scores.csv": (lambda path: read_scores(path, "lddt_ca"), UserError),
    "ids.txt": (read_ids, UserError),
    "files.txt": (read_lines, BuildError),
    "ledger.csv": (read_ledger, OSError),
    "predictions.csv": (predictions, InputError),
}


@pytest.mark.parametrize("name", READERS)
def test_files_larger_than_the_limit_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_reading, "MAX_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(bounded_reading, "MAX_TABLE_BYTES", 100)
    monkeypatch.setattr("lorta.storage.MAX_CONFIG_BYTES", 100)
    read, error = READERS[name]
    (tmp_path / name).write_text(" " * 101)
    with pytest.raises(error, match="larger than 100 bytes"):
        read(tmp_path / name)


def test_checksums_larger_than_the_limit_are_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_reading, "MAX_TABLE_BYTES", 100)
    (tmp_path / "SHA256SUMS").write_text(" " * 101)
    assert "larger than 100 bytes" in damaged_files(tmp_path)[0]


def test_a_small_gzip_file_does_not_become_a_large_text(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_reading, "MAX_TABLE_BYTES", 10_000)
    monkeypatch.setattr("pipeline.prediction.sequences.MAX_TABLE_BYTES", 10_000)
    (tmp_path / "x.fasta.gz").write_bytes(gzip.compress(b">x\n" + b"A" * 1_000_000))
    with pytest.raises(InputError, match="larger than 10000 bytes"):
        read_fasta(tmp_path / "x.fasta.gz")


def test_a_small_parquet_file_does_not_become_a_large_table(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_reading, "MAX_TABLE_BYTES", 1_000_000)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["A" * 1000] * 10_000}), path)  # a dictionary of one entry
    assert path.stat().st_size < 100_000
    with pytest.raises(OSError, match="larger than 1000000 bytes when read"):
        read_parquet(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_json_that_is_nested_without_end_is_an_error_of_its_own(text):
    with pytest.raises(json.JSONDecodeError, match="nested too deeply"):
        parse_json(text)


def test_toml_that_is_nested_without_end(tmp_path):
    (tmp_path / "x.toml").write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        file_layer(tmp_path / "x.toml")


def test_names_do_not_become_markup_in_reports(tmp_path):
    """The pages of training and prediction; those of datasets and scores have tests of their own."""
    from pipeline.prediction.report import write_report
    from pipeline.prediction.rows import PredictionRow

    bad = "<script>alert(1)</script>"
    row = PredictionRow(name="x", file="x.pdb", status="failed", reason=bad, header=bad, notes=bad)
    page = write_report(tmp_path, [row], bad).read_text()
    assert bad not in page
    assert "&lt;script&gt;alert(1)" in page
