"""What a process gets of a step: the same samples however they are split; mixed datasets; predicted structures."""

import numpy as np
import pytest
import torch

from data_prep.dataset.store import DatasetError, Placement, StructureDataset
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import ATOM37_INDEX
from evaluation.baselines import read_baselines
from pipeline.config.schema import DataConfig, LossConfig, RunConfig, TrainingConfig
from pipeline.training.data import ChainSource, Feed, TrainingChains, training_chains, validation_records
from pipeline.training.validation import sample_in_words, save_baselines
from tests.datasets import write_dataset


@pytest.fixture
def dataset(small_dataset):
    return StructureDataset(small_dataset)


def feed(chains: TrainingChains, *, micro_batch: int = 0, rank: int = 0, count: int = 1) -> Feed:
    data = DataConfig(crop_size=70, batch_size=4, max_recycles=2, substitutions=0.3)
    training = TrainingConfig(micro_batch=micro_batch)
    return Feed(chains, RunConfig(data=data, loss=LossConfig(clamp_probability=0.5), training=training), rank, count)


def samples(batches) -> list[tuple]:
    """(id, what is shown, what is true, clamped) of each sample, without padding."""
    found = []
    for micro in batches.micro_batches:
        lengths = micro.batch.mask.sum(dim=1).int().tolist()
        for i, n in enumerate(lengths):
            shown, true = micro.shown_aatype[i, :n].tolist(), micro.batch.aatype[i, :n].tolist()
            found.append((micro.batch.ids[i], shown, true, micro.clamp[i]))
    return found


def test_samples_do_not_depend_on_how_a_step_is_split(dataset):
    chains = training_chains(dataset, DataConfig())
    whole = feed(chains).load(7)
    assert [micro.share for micro in whole.micro_batches] == [1.0]
    expected = samples(whole)
    assert any(shown != true for _, shown, true, _ in expected)
    assert samples(feed(chains, micro_batch=1).load(7)) == expected
    halves = [samples(feed(chains, micro_batch=1, rank=rank, count=2).load(7)) for rank in (0, 1)]
    assert [halves[0][0], halves[1][0], halves[0][1], halves[1][1]] == expected
    seeds = [micro.torch_seed for micro in feed(chains, micro_batch=1).load(7).micro_batches]
    other = [feed(chains, micro_batch=1, rank=rank, count=2).load(7).micro_batches for rank in (0, 1)]
    assert [m.torch_seed for pair in zip(*other, strict=True) for m in pair] == seeds
    assert sum(m.share for part in other for m in part) == 1.0


def test_steps_come_in_order_and_errors_come_through(dataset, monkeypatch):
    source = feed(training_chains(dataset, DataConfig()))
    assert [batches.plan for batches, _ in source.from_step(3, 6)] == [source.sampler.plan(s) for s in (3, 4, 5, 6)]
    assert list(source.from_step(3, 2)) == []
    monkeypatch.setattr(source, "load", lambda step: {3: "three"}[step])
    steps = source.from_step(3, 5)
    assert next(steps)[0] == "three"
    with pytest.raises(KeyError):
        next(steps)


def test_a_second_dataset_is_drawn_from_by_its_share(dataset):
    names = dataset.ids("train")
    own = ChainSource(dataset, tuple(names[:1]), predicted=False)
    extra = ChainSource(dataset, tuple(names[1:]), predicted=True)
    chains = TrainingChains([(own, 0.25), (extra, 0.75)], by_cluster=False)
    assert chains.weights == pytest.approx([0.25, 0.375, 0.375])
    assert [chains.name(i) for i in range(3)] == names
    assert [chains.load(i)[1] for i in range(3)] == [False, True, True]
    batches = feed(chains).load(1)
    (micro,) = batches.micro_batches
    for name, resolution in zip(micro.batch.ids, micro.batch.resolution.tolist(), strict=True):
        assert (resolution == float("inf")) == (name != names[0])  # no confidence is learned from predictions


def test_the_configuration_names_the_second_dataset(dataset):
    chains = training_chains(dataset, DataConfig(extra=str(dataset.path), extra_fraction=0.75, overfit=2))
    assert chains.weights == pytest.approx([0.125, 0.125, 0.25, 0.25, 0.25])
    assert [chains.load(i)[1] for i in range(5)] == [False, False, True, True, True]


def test_a_dataset_without_training_chains_is_a_line(dataset, tmp_path):
    (name,) = dataset.ids("val")
    write_dataset(tmp_path / "d", [dataset.load(name)], placements={name: Placement("val", cluster=0)})
    with pytest.raises(DatasetError, match="no chain in the training split"):
        training_chains(StructureDataset(tmp_path / "d"), DataConfig())


def test_overfit_validates_on_its_own_chains(dataset):
    config = DataConfig(overfit=2)
    assert [training_chains(dataset, config).name(i) for i in range(2)] == dataset.ids("train")[:2]
    assert len(training_chains(dataset, config).lengths) == 2
    assert [record.id for record in validation_records(dataset, config, 0)] == dataset.ids("train")[:2]
    assert [record.id for record in validation_records(dataset, DataConfig(), 0)] == dataset.ids("val")


def test_long_runs_of_cluster_sampling_follow_the_weights(dataset):
    """Lengths below 256 count alike, so the chains of three clusters of one are drawn equally often."""
    chains = training_chains(dataset, DataConfig(cluster_sampling=True))
    source = feed(chains)
    drawn = np.bincount([c for step in range(1, 801) for c in source.sampler.plan(step).chains]) / 3200
    assert drawn == pytest.approx([1 / 3] * 3, abs=0.03)
    assert torch.is_tensor(source.first_sample(1).shown_aatype)


def test_validation_is_spread_over_clusters(tmp_path):
    """Six chains of three clusters of 3, 2 and 1: three are one of each; five add one of each that has a second."""
    names = [f"c{i}" for i in range(6)]
    sequences = ["ACDE" + letter * (3 + i) for i, letter in enumerate("FGHIKL")]
    placements = {name: Placement("val", cluster) for name, cluster in zip(names, (0, 0, 0, 1, 1, 2), strict=True)}

    def stored(path, order):
        chains = [a_chain(names[i], sequences[i]) for i in order]
        write_dataset(path, [a_chain("t", "W" * 9), *chains], placements=placements | {"t": Placement("train", 9)})
        return StructureDataset(path)

    data, reversed_data = stored(tmp_path / "a", range(6)), stored(tmp_path / "b", reversed(range(6)))

    def chosen(dataset, limit):
        return [record.id for record in validation_records(dataset, DataConfig(), limit)]

    assert chosen(data, 0) == chosen(data, 6) == chosen(data, 7) == names
    three, five = chosen(data, 3), chosen(data, 5)
    assert sorted(placements[name].cluster for name in three) == [0, 1, 2]
    assert sorted(placements[name].cluster for name in five) == [0, 0, 1, 1, 2]
    assert set(chosen(data, 2)) < set(three) < set(chosen(data, 4)) < set(five)
    assert three == sorted(three) and chosen(reversed_data, 3) == three[::-1]
    rows = save_baselines(tmp_path / "baselines.csv", data, validation_records(data, DataConfig(), 3), training(data))
    assert sample_in_words(rows, 6, overfit=False) == "3 of 6 validation chains, one from each of 3 clusters"
    assert [row.target for row in read_baselines(tmp_path / "baselines.csv")] == three
    rows = save_baselines(tmp_path / "baselines.csv", data, validation_records(data, DataConfig(), 5), training(data))
    assert sample_in_words(rows, 6, overfit=False) == "5 of 6 validation chains, spread over 3 clusters"
    assert sample_in_words(rows, 5, overfit=False) == "all 5 validation chains, of 3 clusters"
    assert sample_in_words(rows[:1], 1, overfit=False) == "the only validation chain"
    assert sample_in_words(rows, 9, overfit=True) == "5 of the training chains"


def test_copies_are_of_the_chains_that_a_run_trains_on(tmp_path):
    """Its second dataset among them; of an overfit run the few that it has, which are their own copies."""
    sequence = "MKTAYIAKQRQISFVKSHFSRQ"
    chains = [a_chain("far", "GDWPCNEHLTVMKYARSGPLEDWQ"), a_chain("near", "W" + sequence[1:]), a_chain("v", sequence)]
    write_dataset(
        tmp_path / "d", chains, placements={c.id: Placement("val" if c.id == "v" else "train", 0) for c in chains}
    )
    write_dataset(tmp_path / "extra", [a_chain("twin", sequence)])
    data = StructureDataset(tmp_path / "d")
    for config, nearest, target in (
        (DataConfig(), "near", "v"),
        (DataConfig(extra=str(tmp_path / "extra")), "twin", "v"),
        (DataConfig(overfit=1), "far", "far"),
    ):
        records = validation_records(data, config, 0)
        rows = save_baselines(tmp_path / "baselines.csv", data, records, training_chains(data, config))
        assert [(row.target, row.nearest_train) for row in rows] == [(target, nearest)]


def training(dataset):
    return training_chains(dataset, DataConfig())


def a_chain(name: str, sequence: str) -> ProteinRecord:
    """Alpha carbons on a line."""
    n, ca = len(sequence), ATOM37_INDEX["CA"]
    atoms, mask = np.zeros((n, 37, 3), dtype=np.float32), np.zeros((n, 37), dtype=bool)
    atoms[:, ca, 0], mask[:, ca] = np.arange(n) * 3.5, True
    numbers = np.arange(n, dtype=np.int32)
    nothing, no_code = np.zeros((n, 37), dtype=np.float32), np.full(n, "", dtype="<U1")
    return ProteinRecord(name, "A", sequence, numbers, atoms, mask, nothing, numbers + 1, no_code)
