"""Tables of results."""

from pipeline.lm.grid import score_table, write_comparison
from pipeline.lm.results import markdown, rows_as_csv, spread


def row(task, method, rank, seed, parameters, best, last):
    return {
        "task": task, "method": method, "rank": rank, "seed": seed, "status": "done", "metric": "accuracy",
        "adapter_parameters": parameters, "best": best, "last": last,
    }  # fmt: skip


ROWS = [
    row("rte", "lora", 8, 0, 1000, 0.5, 0.4),
    row("rte", "lora", 8, 1, 1000, 0.7, 0.6),
    row("rte", "head", "", 0, 0, 0.5, 0.5),
    row("mrpc", "lora", 8, 0, 1000, 0.8, 0.8),
    {"task": "mrpc", "method": "head", "rank": "", "seed": 0, "status": "not run yet"},
]


def test_small_pieces():
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert spread([0.5]) == "0.500"
    assert markdown(("a", "b"), [(1, "x")]) == "| a | b |\n| --- | --- |\n| 1 | x |\n"
    assert rows_as_csv([{"b": 1}, {"a": 2, "b": 3}], first=("a",)) == "a,b\n,1\n2,3\n"


def test_table_1s_shape_with_gaps():
    lines = score_table(ROWS, "best").splitlines()
    assert lines[0] == "| method | adapter parameters | rte accuracy | mrpc accuracy | average |"
    assert lines[2] == "| lora r=8 | 1,000 | 0.600 ± 0.141 | 0.800 (1 of 2 seeds) | 0.700 |"
    assert lines[3] == "| head | 0 | 0.500 (1 of 2 seeds) |  |  |"
    assert "0.500 ± 0.141" in score_table(ROWS, "last")


def test_files_and_plots(tmp_path):
    names = write_comparison(tmp_path, ROWS, "title", plots=True)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert "* mrpc head, seed 0: not run yet" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "parameters_best.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "parameters_last.svg").read_text()
    assert svg.count('id="axes_') == 2


def test_nothing_done_yet(tmp_path):
    assert write_comparison(tmp_path, ROWS[-1:], "title", plots=True) == ["cells.csv"]
