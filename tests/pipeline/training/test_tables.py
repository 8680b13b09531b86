"""Tables that are cut back, and that outlive a crash in the middle of a line."""

import csv
import math

import pytest

from pipeline.runs.tables import CsvLog, TableError, read_columns, read_rows

COLUMNS = ("step", "loss")


def test_a_table_is_cut_back_to_the_step_of_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, COLUMNS, after_step=0)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 3})
    log.close()
    log = CsvLog(path, COLUMNS, after_step=2)
    log.append({"step": 3, "loss": float("nan")})
    log.close()
    with path.open(newline="") as stream:
        assert list(csv.reader(stream)) == [["step", "loss"], ["1", "0.333333333"], ["2", "0.666666667"], ["3", ""]]


def test_a_row_is_in_the_file_when_append_returns(tmp_path):
    log = CsvLog(tmp_path / "metrics.csv", COLUMNS, after_step=0)
    log.append({"step": 1, "loss": 1.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1.5\n"


def test_a_half_written_line_is_left_out(tmp_path):
    """Of step 12 only the 1 was written: it must not be taken for step 1."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n1")
    assert [row["step"] for row in read_rows(path, 100)] == ["1", "2"]
    CsvLog(path, COLUMNS, after_step=1).close()
    assert path.read_text() == "step,loss\n1,0.5\n"
    assert read_rows(tmp_path / "none.csv", 100) == []


def test_other_columns_are_an_error(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,lossy\n1,0.5\n")
    with pytest.raises(TableError, match="has the columns step, lossy; expected step, loss"):
        CsvLog(path, COLUMNS, after_step=1)
    assert path.read_text() == "step,lossy\n1,0.5\n"
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    "content",
    [
        b"step,target,lddt_ca\n1,a,0.5\n2,b\n",
        b"step,target,lddt_ca\n1,a,0.5\n2,b,0.5,7\n",
        b"step,target,lddt_ca\n1,a,0.5\n2,b,half\n",
        b"step,target,lddt_ca\n1,a,0.5\n-2,b,0.5\n",
        b"step,target,lddt_ca\n1,a,0.5\n,b,0.5\n",
    ],
)
def test_a_damaged_row_is_a_line(tmp_path, content):
    path = tmp_path / "validation.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"validation\.csv: line 3 is damaged"):
        read_rows(path, 100)


@pytest.mark.parametrize("content", [b"step,loss\n1,\xff\n", b'step,loss\n1,"0.5\n'])
def test_what_is_no_table_is_a_line(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"metrics\.csv: cannot be read as a table"):
        read_rows(path, 100)


def test_columns_are_those_of_the_rows(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CsvLog(path, COLUMNS, after_step=0)
    log.append(*({"step": step, "loss": loss} for step, loss in ((1, 1 / 3), (2, math.nan), (3, math.inf), (4, 2))))
    log.close()
    assert path.read_text() == "step,loss\n1,0.333333333\n2,\n3,inf\n4,2\n"
    with path.open("a") as stream:
        stream.write("5,1")  # half a line
    columns = read_columns(path)
    assert columns["step"].tolist() == [1, 2, 3, 4]
    assert columns["loss"].tolist() == pytest.approx([0.333333333, math.nan, math.inf, 2], nan_ok=True, abs=0)
    assert read_columns(path, up_to_step=1)["loss"].tolist() == [0.333333333]
    assert read_columns(tmp_path / "none.csv") == {}
    path.write_text("step,lo")
    assert read_columns(path) == {}
    for damage in (b"1,\xff\n", b"1,half\n", b"1\n", b"1,2,3\n"):
        path.write_bytes(b"step,loss\n" + damage)
        with pytest.raises(TableError, match=r"metrics\.csv: cannot be read as a table of numbers: [^\n]*$"):
            read_columns(path)


def test_blanks_and_targets_are_no_damage(tmp_path):
    path = tmp_path / "validation.csv"
    path.write_text('step,target,lddt_ca\n1,"a, b",\n')
    assert read_rows(path, 1) == [{"step": "1", "target": "a, b", "lddt_ca": ""}]
    CsvLog(tmp_path / "metrics.csv", COLUMNS, after_step=0).append({"step": 1, "loss": math.inf})  # of a skipped step
    assert read_rows(tmp_path / "metrics.csv", 1) == [{"step": "1", "loss": "inf"}]
