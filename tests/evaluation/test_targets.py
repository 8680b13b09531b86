import pytest

from data_prep.files.errors import UserError
from evaluation.run import Settings, evaluate
from evaluation.targets import pair, read_ids
from tests.datasets import write_dataset


@pytest.fixture
def folders(tmp_path):
    """``folders(preds names, truth names)``: two directories of empty files; pairing looks at names alone."""

    def make(preds, truth):
        for folder, names in (("preds", preds), ("truth", truth)):
            (tmp_path / folder).mkdir()
            for name in names:
                (tmp_path / folder / name).touch()
        return tmp_path / "preds", tmp_path / "truth"

    return make


def summary(pairing):
    return {
        target.name: (
            target.prediction and target.prediction.name,
            target.truth and target.truth.name,
            target.true_chain,
        )
        for target in pairing.targets
    }


def test_stems_pair_whatever_the_format(folders):
    preds, truth = folders(
        ["a.pdb", "b.cif.gz", "z.pdb", "._a.pdb", "predictions.csv"], ["a.cif", "b.ent", "c.pdb", "notes.txt"]
    )
    assert summary(pair(preds, truth)) == {
        "a": ("a.pdb", "a.cif", None),
        "b": ("b.cif.gz", "b.ent", None),
        "c": (None, "c.pdb", None),
        "z": ("z.pdb", None, None),
    }


def test_chain_names_pair_with_the_chain_of_the_file(folders):
    preds, truth = folders(["1abc_A.pdb", "1abc_B.pdb", "x_y_C.pdb"], ["1abc.pdb.gz", "x_y.cif", "9zzz.pdb"])
    pairing = pair(preds, truth)
    assert summary(pairing) == {
        "1abc_A": ("1abc_A.pdb", "1abc.pdb.gz", "A"),
        "1abc_B": ("1abc_B.pdb", "1abc.pdb.gz", "B"),
        "x_y_C": ("x_y_C.pdb", "x_y.cif", "C"),
    }
    assert "3 of 3 predictions are named <stem>_<chain>" in pairing.notes[0]
    assert "1 files of" in pairing.notes[1] and "not counted as missing" in pairing.notes[1]


def test_a_whole_name_goes_before_a_chain_name(folders):
    preds, truth = folders(["1abc_A.pdb"], ["1abc_A.pdb", "1abc.pdb"])
    assert summary(pair(preds, truth))["1abc_A"] == ("1abc_A.pdb", "1abc_A.pdb", None)


def test_an_empty_chain_id_has_a_name_too(folders):
    preds, truth = folders(["old_.pdb"], ["old.pdb"])
    assert summary(pair(preds, truth)) == {"old_": ("old_.pdb", "old.pdb", "")}


def test_of_two_formats_the_one_in_the_predictions_table_is_taken(folders):
    preds, truth = folders(["a.pdb", "a.cif", "b.cif", "c.cif", "c.pdb"], ["a.pdb", "b.pdb", "c.pdb"])
    (preds / "predictions.csv").write_text("name,file\na,a.cif\n")
    (preds / "predictions.2-of-2.csv").write_text("name,file\nb,b.pdb\n")
    targets = {target.name: target for target in pair(preds, truth).targets}
    assert targets["a"].prediction.name == "a.cif" and not targets["a"].problem
    assert targets["b"].prediction.name == "b.cif" and not targets["b"].problem
    assert targets["c"].problem.startswith("c.cif and c.pdb share a stem"), "the table does not name it"
    (preds / "relaxed").mkdir()
    for name in ("a.pdb", "a.cif"):
        (preds / "relaxed" / name).write_bytes((preds / name).read_bytes())
    assert pair(preds / "relaxed", truth).targets[0].prediction.name == "a.cif", "the table lies above"


def test_doubled_stems_are_a_problem_of_the_target(folders):
    preds, truth = folders(["a.pdb", "b.pdb"], ["a.pdb", "a.cif.gz", "b.pdb"])
    problems = {target.name: target.problem for target in pair(preds, truth).targets}
    assert problems["a"].startswith("a.cif.gz and a.pdb share a stem")
    assert problems["b"] == ""


def test_swapped_directories_are_noticed(folders):
    preds, truth = folders(["1abc.pdb"], ["1abc_A.pdb"])
    with pytest.raises(UserError, match="they pair when swapped"):
        pair(preds, truth)


def test_a_suffix_that_is_not_said_is_named(folders):
    preds, truth = folders(["1abc.pdb", "2xyz.pdb"], ["1abc_ref.pdb", "2xyz_ref.cif"])
    with pytest.raises(UserError, match="say --truth-suffix _ref"):
        pair(preds, truth)


def test_a_dataset_as_prediction_is_noticed(folders):
    preds, truth = folders(["a.pdb"], ["dataset.json"])
    with pytest.raises(UserError, match="it is a dataset, which can be the truth"):
        pair(truth, preds)


@pytest.mark.parametrize(
    ("preds", "truth", "found"),
    [
        (["a.pdb"], ["b.pdb"], r"no name in PREDS .* \(a\) is one in TRUTH .* \(b\): rename, or name the pairs"),
        ([], ["b.pdb"], "PREDS: no structure files in"),
        (["a.pdb"], ["a.txt"], "TRUTH: no structure files in"),
    ],
)
def test_directories_that_do_not_pair(folders, preds, truth, found):
    with pytest.raises(UserError, match=found):
        pair(*folders(preds, truth))


def test_names_that_pair_only_when_swapped_are_a_warning(folders):
    preds, truth = folders(["a.pdb", "1abc.pdb"], ["a.pdb", "1abc_A.pdb"])
    notes = pair(preds, truth).notes
    assert any(note.startswith("warning: 1 names of TRUTH") and "swapped (first: 1abc_A)" in note for note in notes)
    assert not any("swapped" in note for note in pair(preds, preds).notes)


def test_a_suffix_of_the_truths(folders):
    preds, truth = folders(["a.pdb", "b.pdb", "1abc_B.pdb"], ["a_ref.cif", "b.pdb", "1abc_ref.pdb"])
    assert summary(pair(preds, truth, truth_suffix="_ref")) == {
        "a": ("a.pdb", "a_ref.cif", None),
        "b": ("b.pdb", None, None),
        "1abc_B": ("1abc_B.pdb", "1abc_ref.pdb", "B"),
    }
    with pytest.raises(UserError, match=r"--truth-suffix _x: no name in .* ends in it; found 1abc_ref, a_ref, b"):
        pair(preds, truth, truth_suffix="_x")
    with pytest.raises(UserError, match="is for the names of two directories"):
        pair(preds / "a.pdb", truth / "b.pdb", truth_suffix="_ref")


def test_ids_are_all_expected_and_no_others(folders):
    preds, truth = folders(["a.pdb", "b.pdb", "1abc_A.pdb"], ["a.pdb", "c.pdb", "d.pdb", "1abc.pdb"])
    pairing = pair(preds, truth, ids=["a", "c", "1abc_B", "zz"])
    assert summary(pairing) == {
        "a": ("a.pdb", "a.pdb", None),
        "c": (None, "c.pdb", None),
        "1abc_B": (None, "1abc.pdb", "B"),
        "zz": (None, None, None),
    }
    assert {target.name for target in pairing.targets if target.problem} == {"zz"}
    with pytest.raises(UserError, match="leave it out where files are named"):
        pair(preds / "a.pdb", truth / "a.pdb", ids=["a"])


def test_files_of_ids(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("# these\nb\n a \n\nb\n")
    assert read_ids(path) == ["b", "a"]
    path.write_text("# none\n")
    with pytest.raises(UserError, match="no name in it"):
        read_ids(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_ids(tmp_path / "nowhere")


def test_files_pair_and_a_mixture_does_not(folders):
    preds, truth = folders(["a.pdb"], ["b.cif"])
    assert summary(pair(preds / "a.pdb", truth / "b.cif")) == {"a": ("a.pdb", "b.cif", None)}
    with pytest.raises(UserError, match="give two directories or two files"):
        pair(preds / "a.pdb", truth)
    with pytest.raises(UserError, match=r"PREDS: .*nowhere does not exist"):
        pair(preds / "nowhere", truth)


def test_a_table_names_pairs(folders, tmp_path):
    preds, truth = folders(["a.pdb", "b.pdb"], ["t.pdb"])
    table = tmp_path / "pairs.csv"
    table.write_text(
        "note,pred,truth,target,truth_chain\n,a.pdb,t.pdb,one,\n,preds/b.pdb,truth/t.pdb,two,B\n,no.pdb,t.pdb,,\n"
    )
    pairing = pair(preds, truth, table)
    assert summary(pairing) == {
        "one": ("a.pdb", "t.pdb", None),
        "two": ("b.pdb", "t.pdb", "B"),
        "no": ("no.pdb", "t.pdb", None),
    }
    assert pairing.targets[2].problem == "row 4 of pairs.csv names no.pdb, which does not exist"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pred,true\na.pdb,t.pdb\n", "no column truth; found pred, true"),
        ("pred,truth\n", "no row below the header"),
        ("", "no column pred and truth; found nothing"),
        ("pred,truth\na.pdb\n", "row 2 has an empty pred or truth"),
        (
            "pred,truth\na.pdb,t.pdb\na.pdb,t.pdb\n",
            "rows 2 and 3 are both target a: tell them apart in a column `target`",
        ),
    ],
)
def test_tables_that_do_not_work(folders, tmp_path, text, found):
    preds, truth = folders(["a.pdb"], ["t.pdb"])
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=found):
        pair(preds, truth, tmp_path / "pairs.csv")


@pytest.fixture
def dataset(tmp_path, record, sequence):
    """Two validation records and one of training."""
    from dataclasses import replace

    from data_prep.dataset.store import Placement

    records = [replace(record(sequence(20, i)), id=name) for i, name in enumerate(("p_A", "q_A", "r_A"))]
    placements = {"p_A": Placement("val", 0), "q_A": Placement("val", 1), "r_A": Placement("train", 2)}
    write_dataset(tmp_path / "dataset", records, placements=placements)
    return tmp_path / "dataset"


def test_a_dataset_is_a_truth(folders, dataset):
    preds, truth = folders(["p_A.pdb", "r_A.cif", "other.pdb"], ["t.pdb"])
    pairing = pair(preds, dataset)
    assert [(target.name, target.record_id) for target in pairing.targets] == [
        ("other", None),
        ("p_A", "p_A"),
        ("r_A", "r_A"),
    ]
    assert "1 of its 3 records have no prediction and are not counted as missing" in pairing.notes[1]
    of_split = pair(preds, dataset, split="val")
    assert {target.name: bool(target.prediction and target.truth) for target in of_split.targets} == {
        "p_A": True,
        "q_A": False,
        "r_A": False,
        "other": False,
    }
    reasons = {row.target: (row.status, row.reason) for row in evaluate(of_split.targets, Settings())}
    assert reasons["r_A"] == ("extra", "a record of the dataset, but not of split val: ignored")
    assert reasons["other"] == ("extra", "no truth of this name: ignored")
    of_ids = pair(preds, dataset, ids=["p_A", "q_A"])
    assert {target.name: target.prediction is None for target in of_ids.targets} == {"p_A": False, "q_A": True}
    with pytest.raises(UserError, match=r"--ids names zz, which .* does not have"):
        pair(preds, dataset, ids=["p_A", "zz"])
    with pytest.raises(UserError, match="no such split"):
        pair(preds, dataset, split="test")
    with pytest.raises(UserError, match="--split val needs a dataset"):
        pair(preds, truth, split="val")


def test_a_dataset_without_its_files_is_one_line(folders, tmp_path):
    preds, truth = folders(["a.pdb"], ["t.pdb"])
    (truth / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="TRUTH: "):
        pair(preds, truth)


def test_samples_of_other_predictors_pair_with_their_targets(tmp_path):
    names = {
        "x": [
            "x_unrelaxed_rank_001_alphafold2_ptm_model_1_seed_000.pdb", "fold_x_model_0.cif", "x_model.cif",
            "x_model_0.cif", "x_sample_0.cif", "x_model_1_ptm_relaxed.pdb", "x/ranked_0.pdb",
            "x/seed-1_sample-0/model.cif", "x/pred.model_idx_0.cif",
        ],
        "x_y": ["x_y_model_0.cif", "x_y_seed_101_sample_0.cif"],
    }  # fmt: skip
    for name in (*names["x"], *names["x_y"]):
        (tmp_path / "preds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "preds" / name).touch()
    (tmp_path / "truth").mkdir()
    for name in names:
        (tmp_path / "truth" / f"{name}.pdb").touch()
    pairs: dict[str, list] = {}
    for target in pair(tmp_path / "preds", tmp_path / "truth").targets:
        assert target.true_chain is None and not target.problem, target
        pairs.setdefault(target.truth.stem, []).append(target.prediction.relative_to(tmp_path / "preds").as_posix())
    assert {name: sorted(found) for name, found in pairs.items()} == {name: sorted(n) for name, n in names.items()}


def test_predictions_with_a_suffix_of_their_own(tmp_path):
    for name in ("preds/x-mine.pdb", "truth/x.pdb"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (target,) = pair(tmp_path / "preds", tmp_path / "truth", pred_suffix="-mine").targets
    assert target.truth.name == "x.pdb"
