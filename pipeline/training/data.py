"""From chains to the batches of a step, as a pure function of the seed and the step.

Nothing random is kept between steps, so that a resumed run draws what an uninterrupted one would have drawn.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch

from data_prep.dataset.store import DatasetError, StructureDataset
from data_prep.structure.record import ProteinRecord
from data_prep.structure.residues import RESTYPES
from pipeline.config.schema import DataConfig, RunConfig
from pipeline.folding.stem import MASKED
from pipeline.folding.tensor_files import write_tensors

MIN_LENGTH_WEIGHT, MAX_LENGTH_WEIGHT = 256, 512
"""OpenFold's sampling weight grows with the length between these bounds (AlphaFold2 suppl. 1.2.5)."""

MAX_BATCH_FACTOR = 4


@dataclass(frozen=True)
class StepPlan:
    """The random choices of one step."""

    chains: tuple[int, ...]
    """Places of the samples' chains in the list that is drawn from."""
    crop_size: int
    crop_seeds: tuple[int, ...]
    """Seed of each sample's crop."""
    clamp: tuple[bool, ...]
    """Whether the backbone FAPE of a sample is clamped."""
    num_recycles: int
    """The same for all samples, and so on all processes."""
    torch_seed: int
    """For dropout and substituted residues."""


def sampling_weights(lengths: Sequence[int], cluster_sizes: Sequence[int] | None) -> np.ndarray:
    """Probability of each chain, float64 [chains].

    With cluster sizes: 1 / cluster size x clip(length, 256, 512) / 512, as OpenFold; without: equal.
    """
    if cluster_sizes is None:
        weights = np.ones(len(lengths))
    else:
        clipped = np.clip(np.asarray(lengths, dtype=np.float64), MIN_LENGTH_WEIGHT, MAX_LENGTH_WEIGHT)
        weights = clipped / MAX_LENGTH_WEIGHT / np.asarray(cluster_sizes, dtype=np.float64)
    return weights / weights.sum()


@dataclass(frozen=True)
class CropSchedule:
    """Size of the crops as a function of the step."""

    final: int
    initial: int = 0
    """0: ``final`` from the first step."""
    growth_steps: int = 0
    """Steps over which the size grows linearly from ``initial`` to ``final``."""

    def size(self, step: int) -> int:
        """Residues of a crop in step ``step`` (from 1)."""
        if not self.initial or step >= self.growth_steps:
            return self.final
        return self.initial + (self.final - self.initial) * step // self.growth_steps

    def batch_factor(self, step: int) -> int:
        """How many times the batch size a batch of short crops holds, 1 to 4: about as many pairs as in whole ones."""
        return min(MAX_BATCH_FACTOR, self.final**2 // self.size(step) ** 2)


@dataclass(frozen=True)
class StepSampler:
    """Draws the plan of any step."""

    weights: np.ndarray
    """Probability of each chain, float64 [chains]."""
    crops: CropSchedule
    batch_size: int
    max_recycles: int
    clamp_probability: float
    seed: int

    @classmethod
    def of_run(cls, weights: np.ndarray, config: RunConfig) -> Self:
        """The sampler of a run over its chains."""
        crops = CropSchedule(
            final=config.data.crop_size,
            initial=config.data.initial_crop_size,
            growth_steps=round(config.data.crop_growth * config.training.max_steps),
        )
        return cls(
            weights=weights,
            crops=crops,
            batch_size=config.data.batch_size,
            max_recycles=config.data.max_recycles,
            clamp_probability=config.loss.clamp_probability,
            seed=config.training.seed,
        )

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = self.weights.cumsum()
        return total / total[-1]

    def plan(self, step: int) -> StepPlan:
        """The plan of step ``step`` (from 1)."""
        rng = np.random.default_rng([self.seed, step])
        batch_size = self.batch_size * self.crops.batch_factor(step)
        # The draw of Generator.choice with replacement, without the sum over millions of chains in each step.
        chosen = self._cumulative.searchsorted(rng.random(batch_size), side="right")
        return StepPlan(
            chains=tuple(int(i) for i in chosen),
            crop_size=self.crops.size(step),
            crop_seeds=tuple(int(s) for s in rng.integers(2**62, size=batch_size)),
            clamp=tuple(bool(c) for c in rng.random(batch_size) < self.clamp_probability),
            num_recycles=int(rng.integers(self.max_recycles + 1)),
            torch_seed=int(rng.integers(2**62)),
        )


@dataclass(frozen=True)
class ChainSource:
    """Training chains of one dataset."""

    dataset: StructureDataset
    ids: tuple[str, ...]
    predicted: bool
    """Predicted structures do not train the confidence."""


class TrainingChains:
    """Chains of one or two sources in one list, with the probability of each."""

    def __init__(self, sources: list[tuple[ChainSource, float]], by_cluster: bool) -> None:
        """``sources`` with the share of the samples that each gives."""
        self.sources = [source for source, _ in sources]
        self._first = np.cumsum([0, *(len(source.ids) for source in self.sources)])
        lengths = [source.dataset.column("length", source.ids) for source in self.sources]
        self.lengths = np.concatenate(lengths)
        weights = []
        for part, (source, share) in zip(lengths, sources, strict=True):
            clusters = source.dataset.column("cluster_size", source.ids) if by_cluster else None
            weights.append(share * sampling_weights(part, clusters))
        self.weights: np.ndarray = np.concatenate(weights)
        """float64 [chains], sum 1."""

    def _place(self, chain: int) -> tuple[ChainSource, str]:
        number = int(np.searchsorted(self._first, chain, side="right")) - 1
        source = self.sources[number]
        return source, source.ids[chain - self._first[number]]

    def name(self, chain: int) -> str:
        """Id of a chain in its dataset."""
        return self._place(chain)[1]

    def load(self, chain: int) -> tuple[ProteinRecord, bool]:
        """The record of a chain, and whether it is a prediction."""
        source, name = self._place(chain)
        return source.dataset.load(name), source.predicted


def training_chains(dataset: StructureDataset, config: DataConfig) -> TrainingChains:
    """What the configuration says to draw from. Raises DatasetError: nothing to train on."""
    own = ChainSource(dataset, own_ids(dataset, config), predicted=False)
    if not config.extra:
        return TrainingChains([(own, 1.0)], config.cluster_sampling)
    second = StructureDataset(config.extra)
    extra = ChainSource(second, _train_ids(second), predicted=True)
    return TrainingChains([(own, 1 - config.extra_fraction), (extra, config.extra_fraction)], config.cluster_sampling)


def validation_records(dataset: StructureDataset, config: DataConfig, limit: int) -> list[ProteinRecord]:
    """Return the chains to validate on, at most ``limit`` (0: all): held-out ones spread over their clusters
    (``spread_over_clusters``), or the first training chains of an overfit run."""
    if config.overfit:
        names = list(own_ids(dataset, config))
        names = names[:limit] if limit else names
    else:
        names = spread_over_clusters(dataset, dataset.ids("val"), limit)
    return [dataset.load(name) for name in names]


def spread_over_clusters(dataset: StructureDataset, names: Sequence[str], limit: int, draw: int = 0) -> list[str]:
    """Return ``limit`` of the chains (0: all) in their order, one of each cluster before a second one of any.

    Which clusters, and which of their chains, hashes of the sequences decide: neither names nor order matter, and a
    smaller sample is a part of a larger one. Another ``draw`` gives other hashes.
    """
    if not limit or limit >= len(names):
        return list(names)
    sequences, clusters = dataset.column("sequence", names), dataset.column("cluster", names)
    salt = str(draw) if draw else ""
    places = [(hashlib.sha256((salt + sequence).encode()).hexdigest(), i) for i, sequence in enumerate(sequences)]
    taken: Counter[int] = Counter()
    order = []
    for digest, i in sorted(places):
        order.append((taken[clusters[i]], digest, i))
        taken[clusters[i]] += 1
    return [names[i] for i in sorted(i for *_, i in sorted(order)[:limit])]


def own_ids(dataset: StructureDataset, config: DataConfig) -> tuple[str, ...]:
    """Return the training chains of ``dataset`` that a run draws from, in their order.

    Raises DatasetError: there are none, or fewer than ``train_size``.
    """
    ids = _train_ids(dataset)
    if config.train_size > len(ids):
        raise DatasetError(
            f"{dataset.path}: data.train_size = {config.train_size}, and its training split has {len(ids)} chains"
        )
    ids = tuple(spread_over_clusters(dataset, ids, config.train_size, config.train_draw))
    return ids[: config.overfit] if config.overfit else ids


def panel_records(path: str) -> list[ProteinRecord]:
    """All chains of the dataset of a forgetting check; none without a path. Raises DatasetError."""
    if not path:
        return []
    dataset = StructureDataset(path)
    return [dataset.load(name) for name in dataset.ids()]


def _train_ids(dataset: StructureDataset) -> tuple[str, ...]:
    ids = tuple(dataset.ids("train"))
    if not ids:
        raise DatasetError(f"{dataset.path}: no chain in the training split: see the options of pipeline.prepare")
    return ids


MASK_STREAM = 0x6D61736B
"""Makes the draws of masked residues other ones than those of substituted residues of the same step."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B chains or crops, padded to N residues."""

    ids: tuple[str, ...]
    aatype: torch.Tensor
    """int64 [B, N]; 0 in the padding."""
    mask: torch.Tensor
    """float32 [B, N], 1 for residues, observed or not."""
    residue_index: torch.Tensor
    """int64 [B, N]."""
    atom37_positions: torch.Tensor
    """float32 [B, N, 37, 3], angstrom."""
    atom37_mask: torch.Tensor
    """float32 [B, N, 37], 1 for observed atoms."""
    resolution: torch.Tensor
    """float32 [B], angstrom; nan where the file states none, inf for a predicted structure."""

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "ids"}
        return replace(self, **moved)

    def save(self, path: Path) -> None:
        """Write all of it as safetensors, the ids in the metadata."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ids"}
        write_tensors(path, tensors, {"ids": json.dumps(self.ids)})


@dataclass(frozen=True)
class Crop:
    """A record and the residues of it to use."""

    record: ProteinRecord
    start: int = 0
    length: int | None = None
    """None: all the rest."""
    predicted: bool = False
    """A predicted structure: its resolution is infinite, so that it does not train the confidence."""


def random_crop(record: ProteinRecord, crop_size: int, rng: np.random.Generator, predicted: bool = False) -> Crop:
    """A uniformly drawn window of ``crop_size`` residues, or the whole chain when it is not longer."""
    spare = len(record) - crop_size
    start, length = (0, None) if spare <= 0 else (int(rng.integers(spare + 1)), crop_size)
    return Crop(record, start, length, predicted)


def substitute_residues(aatype: torch.Tensor, fraction: float, seed: int) -> torch.Tensor:
    """``aatype`` int64 [B, N] on the CPU with about ``fraction`` of its residues replaced by random standard ones."""
    generator = torch.Generator().manual_seed(seed)
    replace = torch.rand(aatype.shape, generator=generator) < fraction
    others = torch.randint(len(RESTYPES), aatype.shape, generator=generator)
    return torch.where(replace, others, aatype)


def mask_residues(aatype: torch.Tensor, fraction: float, seed: int) -> torch.Tensor:
    """``aatype`` int64 [B, N] on the CPU with about ``fraction`` of its residues as ``MASKED``."""
    generator = torch.Generator().manual_seed(seed ^ MASK_STREAM)
    return aatype.masked_fill(torch.rand(aatype.shape, generator=generator) < fraction, MASKED)


def collate(crops: Sequence[Crop]) -> Batch:
    """Pad crops to the longest one."""
    windows = [slice(c.start, None if c.length is None else c.start + c.length) for c in crops]

    def padded(arrays: list[np.ndarray], dtype: torch.dtype) -> torch.Tensor:
        rows = [torch.as_tensor(np.ascontiguousarray(array)).to(dtype) for array in arrays]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    records = [c.record for c in crops]
    aatype = [r.aatype[w] for r, w in zip(records, windows, strict=True)]
    return Batch(
        ids=tuple(r.id for r in records),
        aatype=padded(aatype, torch.int64),
        mask=padded([np.ones(len(a)) for a in aatype], torch.float32),
        residue_index=padded([r.residue_index[w] for r, w in zip(records, windows, strict=True)], torch.int64),
        atom37_positions=padded([r.atom37_positions[w] for r, w in zip(records, windows, strict=True)], torch.float32),
        atom37_mask=padded([r.atom37_mask[w] for r, w in zip(records, windows, strict=True)], torch.float32),
        resolution=torch.tensor([_resolution(crop) for crop in crops]),
    )


def _resolution(crop: Crop) -> float:
    if crop.predicted:
        return float("inf")
    return float("nan") if crop.record.resolution is None else crop.record.resolution


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What goes through the model at once."""

    batch: Batch
    shown_aatype: torch.Tensor
    """int64 [B, N], with substituted and masked residues: what the stem sees."""
    clamp: tuple[bool, ...]
    num_recycles: int
    torch_seed: int
    share: float
    """Part of the samples of the step, over all processes, that is in here."""

    def to(self, device: torch.device) -> "MicroBatch":
        """On another device."""
        return replace(self, batch=self.batch.to(device), shown_aatype=self.shown_aatype.to(device))


@dataclass(frozen=True, eq=False)
class StepBatches:
    """This process's part of a step."""

    plan: StepPlan
    micro_batches: tuple[MicroBatch, ...]


class Feed:
    """Reads the chains of a plan and makes batches of this process's share of them.

    Sample i of a step belongs to process ``i % count``. Crops and substituted residues are drawn for the step as a
    whole, so they do not depend on how many processes there are or how many samples go through the model at once.
    """

    def __init__(self, chains: TrainingChains, config: RunConfig, rank: int = 0, count: int = 1) -> None:
        """``rank`` of ``count`` processes."""
        self.chains = chains
        self.sampler = StepSampler.of_run(chains.weights, config)
        self.substitutions = config.data.substitutions
        self.masked = config.data.masked_residues if config.heads.masked_lm else 0.0
        self.micro_batch = 1 if config.optimizer.clip == "sample" else config.training.micro_batch
        self.rank = rank
        self.count = count

    def load(self, step: int) -> StepBatches:
        """This process's batches of step ``step``."""
        plan = self.sampler.plan(step)
        mine = range(self.rank, len(plan.chains), self.count)
        size = self.micro_batch or len(mine)
        parts = [mine[start : start + size] for start in range(0, len(mine), size)]
        return StepBatches(plan, tuple(self._micro_batch(plan, part) for part in parts))

    def first_sample(self, step: int) -> MicroBatch:
        """The first sample of a step, alone and without recycles, the same on all processes: for a rehearsal."""
        return replace(self._micro_batch(self.sampler.plan(step), range(1)), num_recycles=0)

    def _micro_batch(self, plan: StepPlan, samples: range) -> MicroBatch:
        crops = []
        for sample in samples:
            record, predicted = self.chains.load(plan.chains[sample])
            rng = np.random.default_rng(plan.crop_seeds[sample])
            crops.append(random_crop(record, plan.crop_size, rng, predicted))
        batch = collate(crops)
        return MicroBatch(
            batch=batch,
            shown_aatype=self._shown(plan, samples, batch.aatype),
            clamp=tuple(plan.clamp[sample] for sample in samples),
            num_recycles=plan.num_recycles,
            torch_seed=plan.torch_seed + samples[0],
            share=len(samples) / len(plan.chains),
        )

    def _shown(self, plan: StepPlan, samples: range, aatype: torch.Tensor) -> torch.Tensor:
        width = int(np.minimum(self.chains.lengths[list(plan.chains)], plan.crop_size).max())
        whole = torch.zeros(len(plan.chains), width, dtype=torch.int64)
        whole[samples.start : samples.stop : samples.step, : aatype.shape[1]] = aatype
        shown = substitute_residues(whole, self.substitutions, plan.torch_seed)
        shown = mask_residues(shown, self.masked, plan.torch_seed)
        return shown[samples.start : samples.stop : samples.step, : aatype.shape[1]]

    def from_step(self, first: int, last: int) -> Iterator[tuple[StepBatches, float]]:
        """The batches of steps ``first`` to ``last``, each with the seconds that it was waited for.

        The next step's are loaded by a thread. An error of loading is raised here.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
            upcoming: Future[StepBatches] | None = thread.submit(self.load, first) if first <= last else None
            for step in range(first, last + 1):
                asked = time.perf_counter()
                batches = upcoming.result()  # type: ignore[union-attr]
                waited = time.perf_counter() - asked
                upcoming = thread.submit(self.load, step + 1) if step < last else None
                yield batches, waited
