"""What a process gets of a step: the same samples however they are split; mixed datasets; predicted structures."""

import numpy as np
import pytest
import torch

from data_prep.dataset import DatasetError, Placement, StructureDataset, write_dataset
from pipeline.config import DataConfig
from pipeline.training.chains import ChainSource, TrainingChains, training_chains, validation_records
from pipeline.training.feed import Feed
from pipeline.training.sampler import CropSchedule, StepSampler


@pytest.fixture
def dataset(small_dataset):
    return StructureDataset(small_dataset)


def feed(chains: TrainingChains, **changes) -> Feed:
    sampler = StepSampler(chains.weights, CropSchedule(final=70), 4, max_recycles=2, clamp_probability=0.5, seed=0)
    return Feed(chains, sampler, **({"substitutions": 0.3, "micro_batch": 0} | changes))


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
