"""Small data of our own making in the shapes of the public sets, and the options of a run of seconds."""

import csv
import json
import random
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the extra lm is not installed")

THINGS = ("cat", "dog", "train", "house", "river", "teacher", "song", "tree")
DEEDS = ("moves", "waits", "is seen", "changes", "is near", "stays")


def sentence(rng: random.Random) -> str:
    return f"The {rng.choice(THINGS)} {rng.choice(DEEDS)} by the {rng.choice(THINGS)} ."


def write_rows(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def glue(tmp_path_factory) -> Path:
    """RTE, STS-B, MRPC and CoLA as the official TSV files have them, quotes and byte order mark included."""
    folder, rng = tmp_path_factory.mktemp("glue"), random.Random(0)
    for split, count in (("train", 40), ("dev", 12)):
        pairs = [(sentence(rng), sentence(rng)) for _ in range(count)]
        rte = [[str(i), a, b, ("entailment", "not_entailment")[i % 2]] for i, (a, b) in enumerate(pairs)]
        write_rows(folder / "RTE" / f"{split}.tsv", [["index", "sentence1", "sentence2", "label"], *rte])
        stsb = [[str(i), a, f'" {b}', f"{rng.uniform(0, 5):.3f}"] for i, (a, b) in enumerate(pairs)]
        write_rows(folder / "STS-B" / f"{split}.tsv", [["index", "sentence1", "sentence2", "score"], *stsb])
        mrpc = [[str(i % 2), "1", "2", a, b] for i, (a, b) in enumerate(pairs)]
        header = ["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        write_rows(folder / "MRPC" / f"{split}.tsv", [header, *mrpc])
        write_rows(folder / "CoLA" / f"{split}.tsv", [["x1", str(i % 2), "", a] for i, (a, _) in enumerate(pairs)])
    return folder


@pytest.fixture(scope="session")
def alpaca(tmp_path_factory) -> Path:
    rng = random.Random(1)
    entries = [
        {"instruction": f"Say where the {thing} is.", "input": "" if n % 2 else sentence(rng), "output": sentence(rng)}
        for n, thing in enumerate(THINGS * 4)
    ]
    file = tmp_path_factory.mktemp("sft") / "alpaca.json"
    file.write_text(json.dumps(entries, indent=1))
    return file


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    rng = random.Random(2)
    lines = [
        {
            "prompt": [{"role": "user", "content": f"What of the {thing}?"}],
            "chosen": [{"role": "assistant", "content": sentence(rng)}],
            "rejected": [{"role": "assistant", "content": f"No {thing}."}],
        }
        for thing in THINGS * 3
    ]
    file = tmp_path_factory.mktemp("dpo") / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="session")
def small_config(tmp_path_factory) -> Path:
    """A Llama of two narrow layers."""
    file = tmp_path_factory.mktemp("config") / "config.json"
    file.write_text(
        json.dumps(
            {
                "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
            }
        )
    )  # fmt: skip
    return file


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
