import random

import pytest

from data_prep.dataset.clusters import Similarity
from data_prep.dataset.splits import SplitError, SplitSettings, split_by_cluster


def example(n: int = 60):
    """n chains in families of 1 to 5; all members of a family are linked."""
    ids, sequences, family = [], [], []
    rng = random.Random(0)
    while len(ids) < n:
        for member in range(rng.randint(1, 5)):
            ids.append(f"f{len(set(family)) if member == 0 else family[-1]}_{member}")
            family.append(len(set(family)) if member == 0 else family[-1])
            sequences.append("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=20)))
    pairs = [Similarity(i, j, 0.5) for i in range(len(ids)) for j in range(i + 1, len(ids)) if family[i] == family[j]]
    return ids, sequences, pairs, family


def test_whole_clusters_and_about_the_share_asked_for():
    ids, sequences, pairs, family = example()
    placed = split_by_cluster(ids, sequences, pairs, SplitSettings(identity=0.4, val_fraction=0.25, seed=1))
    splits = [placed[name].split for name in ids]
    for group in set(family):
        assert len({split for split, f in zip(splits, family, strict=True) if f == group}) == 1
    assert 0.15 < splits.count("val") / len(ids) <= 0.25
    assert all(placed[name].cluster_size == family.count(f) for name, f in zip(ids, family, strict=True))


def test_clusters_are_drawn_for_test_too():
    ids, sequences, pairs, family = example()
    settings = SplitSettings(identity=0.4, val_fraction=0.2, test_fraction=0.2, seed=1)
    splits = [placement.split for placement in split_by_cluster(ids, sequences, pairs, settings).values()]
    for group in set(family):
        assert len({split for split, f in zip(splits, family, strict=True) if f == group}) == 1
    assert all(0.1 < splits.count(name) / len(ids) <= 0.2 for name in ("val", "test"))
    with pytest.raises(ValueError, match="test chains are given by test_ids and by test_fraction"):
        SplitSettings(test_ids=("a",), test_fraction=0.1)


def test_order_and_names_do_not_matter_but_the_seed_does():
    ids, sequences, pairs, _ = example()
    first = split_by_cluster(ids, sequences, pairs, SplitSettings(identity=0.4, seed=3))
    order = list(range(len(ids)))
    random.Random(1).shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    shuffled = [Similarity(*sorted((place[p.i], place[p.j])), p.identity) for p in pairs]
    second = split_by_cluster(
        ["x" + ids[i] for i in order], [sequences[i] for i in order], shuffled, SplitSettings(identity=0.4, seed=3)
    )
    assert {name for name in ids if first[name].split == "val"} == {
        name for name in ids if second["x" + name].split == "val"
    }
    other = split_by_cluster(ids, sequences, pairs, SplitSettings(identity=0.4, seed=4))
    assert [p.split for p in other.values()] != [p.split for p in first.values()]


def test_identical_sequences_never_straddle_at_any_level():
    pairs = [Similarity(0, 1, 0.2)]
    for seed in range(10):
        placed = split_by_cluster(
            ["a", "b", "c"], ["MK", "GG", "MK"], pairs, SplitSettings(identity=1.0, val_fraction=0.4, seed=seed)
        )
        assert placed["a"].split == placed["c"].split != placed["b"].split
        held_out = [name for name in "abc" if placed[name].split == "val"]
        near = {(placed[name].nearest_train_id, placed[name].nearest_train_identity) for name in held_out}
        assert near == {("a" if held_out == ["b"] else "b", 0.2)}


def test_models_of_one_chain_never_straddle():
    for seed in range(10):
        settings = SplitSettings(val_fraction=0.5, seed=seed)
        placed = split_by_cluster(list("abc"), ["MKT", "GG", "MK"], [], settings, together=[("a", "a"), ("a", "c")])
        assert placed["a"].split == placed["c"].split != placed["b"].split
        assert placed["a"].cluster == placed["c"].cluster and placed["a"].cluster_size == 2


def test_given_ids_and_their_relatives():
    pairs = [Similarity(0, 1, 0.6), Similarity(0, 2, 0.35), Similarity(2, 3, 0.2)]
    placed = split_by_cluster(list("abcd"), ["A", "C", "D", "E"], pairs, SplitSettings(identity=0.4, val_ids=["a"]))
    assert [placed[name].split for name in "abcd"] == ["val", "none", "train", "train"]
    assert (placed["a"].nearest_train_id, placed["a"].nearest_train_identity) == ("c", 0.35)
    with pytest.raises(SplitError, match="1 validation ids are not in the dataset: z"):
        split_by_cluster(list("abcd"), ["A", "C", "D", "E"], pairs, SplitSettings(identity=0.4, val_ids=["a", "z"]))
    with pytest.raises(SplitError, match="nothing is left to train on"):
        split_by_cluster(["a", "b"], ["A", "C"], pairs[:1], SplitSettings(identity=0.4, val_ids=["a"]))


def test_nothing_to_validate_on_or_no_wish_to():
    assert split_by_cluster(["a"], ["A"], [], SplitSettings(identity=0.3))["a"].split == "train"
    placed = split_by_cluster(["a", "b"], ["A", "C"], [], SplitSettings(identity=0.3, val_fraction=0))
    assert {p.split for p in placed.values()} == {"train"}


def test_the_smallest_cluster_where_all_are_too_large():
    pairs = [Similarity(0, 1, 0.9), Similarity(2, 3, 0.9), Similarity(3, 4, 0.9)]
    placed = split_by_cluster(list("abcde"), list("ACDEF"), pairs, SplitSettings(identity=0.5, val_fraction=0.1))
    assert [placed[name].split for name in "abcde"] == ["val", "val", "train", "train", "train"]


def split_of(settings: SplitSettings, dates=None) -> str:
    """Splits of six chains by their first letters: clusters ab, cd, e, f."""
    pairs = [Similarity(0, 1, 0.6), Similarity(2, 3, 0.5), Similarity(1, 4, 0.2)]
    placed = split_by_cluster(list("abcdef"), list("ACDEFG"), pairs, settings, release_dates=dates)
    return "".join(placed[name].split[0] for name in "abcdef")


def test_test_ids_go_first_and_the_draw_is_among_the_rest():
    assert split_of(SplitSettings(0.4, test_ids=("a",), val_ids=("c", "f"))) == "tnvntv"
    drawn = {split_of(SplitSettings(0.4, 0.34, test_ids=("a",), seed=seed)) for seed in range(20)}
    assert all(splits.startswith("tn") and "v" in splits[2:] for splits in drawn) and len(drawn) > 1
    nearest = split_by_cluster(
        list("abcdef"), list("ACDEFG"), [Similarity(0, 4, 0.2)], SplitSettings(0.4, 0, test_ids=("a",))
    )["a"]
    assert (nearest.split, nearest.nearest_train_id, nearest.nearest_train_identity) == ("test", "e", 0.2)
    with pytest.raises(SplitError, match="1 test ids are not in the dataset: z"):
        split_of(SplitSettings(0.4, test_ids=("z",)))
    with pytest.raises(ValueError, match="a is listed for validation and for test"):
        SplitSettings(val_ids=("a",), test_ids=("a",))


def test_by_date_and_by_cluster():
    """b is new but has an old relative, f has no date: neither can be placed. c and d are new, and relatives."""
    dates = ["2018-01-01", "2021-01-01", "2020-01-01", "2021-01-01", "2019-12-31", None]
    assert split_of(SplitSettings(0.4, val_from="2020-01-01"), dates) == "tnvvtn"
    assert split_of(SplitSettings(0.4, val_from="2020-01-01", test_ids=("e",)), dates) == "tnvvtn"
    with pytest.raises(SplitError, match="nothing is left to train on"):
        split_of(SplitSettings(0.4, val_from="1990-01-01"), dates)
    with pytest.raises(ValueError, match="choose one"):
        SplitSettings(val_from="2020-01-01", val_ids=("a",))
    with pytest.raises(ValueError, match="expected a date"):
        SplitSettings(val_from="tomorrow")
