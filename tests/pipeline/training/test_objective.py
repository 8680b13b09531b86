"""The objective on real residues: a perfect prediction, unknown atoms, padding, weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.structure.io import read_structure
from pipeline.config.schema import LossConfig
from pipeline.folding.geometry import atom37_to_atom14, atom37_to_rigid_groups, atom37_to_torsions
from pipeline.folding.model import FoldOutput
from pipeline.folding.stem import MASKED
from pipeline.folding.structure_module import StructureOutput
from pipeline.losses.distogram import distance_bins
from pipeline.training.data import Batch, Crop, collate, mask_residues, random_crop, substitute_residues
from pipeline.training.objective import fold_objective

STRUCTURES = Path(__file__).resolve().parents[3] / "pipeline" / "demo_structures"


@pytest.fixture(scope="module")
def records():
    return [read_structure(STRUCTURES / name)[0] for name in ("2igd_A.pdb.gz", "1cyo_A.pdb.gz")]


def perfect(batch: Batch, shift: float = 0.0) -> FoldOutput:
    """The output of a model that knows the answer; ``shift`` moves one residue, in angstrom."""
    groups = atom37_to_rigid_groups(batch.aatype, batch.atom37_positions, batch.atom37_mask)
    torsions = atom37_to_torsions(batch.aatype, batch.atom37_positions, batch.atom37_mask).sin_cos
    atom14 = atom37_to_atom14(batch.aatype, batch.atom37_positions, batch.atom37_mask)
    frames = groups.frames[None]
    backbone = groups.backbone[None]
    backbone.trans[:, :, 3] += shift
    beta = torch.where((batch.aatype == 7)[..., None], batch.atom37_positions[:, :, 1], batch.atom37_positions[:, :, 3])
    bins = distance_bins(beta)
    unit = torsions / torsions.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    logits = torch.nn.functional.one_hot(bins, 64).float() * 100
    states = torch.zeros(1, *batch.mask.shape, 4)
    return FoldOutput(
        structure=StructureOutput(backbone, frames, unit[None], unit[None], atom14.positions[None], states),
        single=states[0],
        pair=torch.zeros(*batch.mask.shape, batch.mask.shape[1], 2),
        distogram_logits=logits,
        plddt_logits=torch.nn.functional.one_hot(torch.full(batch.mask.shape, 49), 50).float() * 100,
    )


def test_a_perfect_prediction_has_the_smallest_loss(records):
    """FAPE of a perfect prediction is sqrt(1e-4) / 10 = 1e-3, by its epsilon; the other terms vanish."""
    batch = collate([Crop(record) for record in records])
    terms = fold_objective(perfect(batch), batch, (True, False), LossConfig()).terms
    assert terms["backbone_fape"].tolist() == pytest.approx([1e-3] * 2, rel=0.02)
    assert terms["sidechain_fape"].tolist() == pytest.approx([1e-3] * 2, rel=0.5)
    for name in ("distogram", "plddt"):
        assert terms[name].tolist() == pytest.approx([0.0] * 2, abs=1e-4), name
    assert terms["supervised_chi"].tolist() == pytest.approx([0.0] * 2, abs=0.02)


def test_clamping_is_per_sample(records):
    """One frame 100 angstrom away: clamped at 10 angstrom in the sample that is clamped."""
    batch = collate([Crop(records[0]), Crop(records[0])])
    terms = fold_objective(perfect(batch, shift=100.0), batch, (True, False), LossConfig()).terms
    clamped, unclamped = terms["backbone_fape"].tolist()
    n = len(records[0])
    pairs = (2 * (n - 1)) / n**2  # the moved frame sees all others, and all others see it
    assert clamped == pytest.approx(pairs, rel=0.05)
    assert unclamped > 5 * clamped


def test_each_sample_alone_and_padding_is_not_read(records):
    batch = collate([Crop(record) for record in records])
    together = fold_objective(perfect(batch, shift=3.0), batch, (False, False), LossConfig()).terms
    for b, record in enumerate(records):
        alone = collate([Crop(record)])
        single = fold_objective(perfect(alone, shift=3.0), alone, (False,), LossConfig()).terms
        for name, value in single.items():
            torch.testing.assert_close(together[name][b], value[0], rtol=1e-4, atol=1e-6)


def test_weights_and_length_scale(records):
    batch = collate([Crop(records[0])])
    output = perfect(batch, shift=5.0)
    zero = dict.fromkeys(("backbone_fape", "sidechain_fape", "supervised_chi", "distogram", "plddt"), 0.0)
    fape = fold_objective(output, batch, (True,), LossConfig(**zero | {"backbone_fape": 2.0}, scale_by_length=False))
    assert fape.loss.item() == pytest.approx(2 * fape.terms["backbone_fape"].item())
    scaled = fold_objective(output, batch, (True,), LossConfig(**zero | {"backbone_fape": 2.0}, scale_by_length=True))
    assert scaled.loss.item() == pytest.approx(fape.loss.item() * len(records[0]) ** 0.5)


ALL_TERMS = LossConfig(pae=0.1, violation=1.0, masked_lm=2.0, ca_distance=0.5, smooth_lddt=1.0, bonds=0.5)


def guess(batch: Batch, seed: int = 0) -> FoldOutput:
    """A prediction that is somewhat wrong, with logits for every head; the same for a residue in any batch."""
    output = perfect(batch, shift=3.0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, 200, 200, 64, generator=generator)
    n = batch.mask.shape[1]
    atoms = output.structure.positions + 0.5 * noise[0, None, None, :n, :14, :3]
    return replace(
        output,
        structure=replace(output.structure, positions=atoms),
        distogram_logits=noise[0, :n, :n].expand(len(batch.ids), n, n, 64),
        plddt_logits=noise[2, 1, :n, :50].expand(len(batch.ids), n, 50),
        pae_logits=noise[1, :n, :n].expand(len(batch.ids), n, n, 64),
        masked_lm_logits=noise[2, 0, :n, :23].expand(len(batch.ids), n, 23),
        masked=(torch.arange(n) % 5 == 1).expand(len(batch.ids), n),
    )


def test_details_count_from_their_share_of_the_steps(records):
    """Before it they are 0 and the loss is that without them; the columns of metrics.csv are the same throughout."""
    batch = collate([Crop(records[0])])
    output, weights = guess(batch), {"smooth_lddt": 1.0, "bonds": 0.5, "violation": 0.3}
    config = LossConfig(**weights, refine_from=0.4)
    early, late = (fold_objective(output, batch, (False,), config, progress) for progress in (0.39, 0.4))
    without = fold_objective(output, batch, (False,), LossConfig())
    assert list(early.terms) == list(late.terms) and set(late.terms) == {*without.terms, *weights}
    assert all(early.terms[name].item() == 0 < late.terms[name].item() for name in weights)
    assert early.loss.item() == without.loss.item()
    details = sum(weight * late.terms[name] for name, weight in weights.items()) * len(records[0]) ** 0.5
    assert late.loss.item() == pytest.approx(without.loss.item() + details.item(), rel=1e-6)


def test_a_batch_is_the_mean_of_its_samples_in_every_term(records):
    batch = collate([Crop(record) for record in records])
    together = fold_objective(guess(batch), batch, (True, False), ALL_TERMS)
    alone = []
    for record, clamp in zip(records, (True, False), strict=True):
        single = collate([Crop(record)])
        alone.append(fold_objective(guess(single), single, (clamp,), ALL_TERMS))
    assert set(together.terms) == {*vars(LossConfig())} - {"clamp_probability", "scale_by_length", "refine_from"}
    for name, values in together.terms.items():
        assert values.min() > 1e-3, name
        expected = torch.cat([objective.terms[name] for objective in alone])
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-6, msg=name)
    assert together.loss.item() == pytest.approx(sum(objective.loss.item() for objective in alone) / 2, rel=1e-5)


@pytest.mark.parametrize("term", ["pae", "violation", "masked_lm"])
def test_terms_of_the_fine_tuning_have_their_weight_and_reach_what_they_train(records, term):
    batch = collate([Crop(records[0])])
    output = guess(batch)
    leaf = {
        "pae": output.pae_logits.clone(),
        "violation": output.structure.positions.clone(),
        "masked_lm": output.masked_lm_logits.clone(),
    }[term].requires_grad_()
    output = {
        "pae": lambda: replace(output, pae_logits=leaf),
        "violation": lambda: replace(output, structure=replace(output.structure, positions=leaf)),
        "masked_lm": lambda: replace(output, masked_lm_logits=leaf),
    }[term]()
    zero = {name: 0.0 for name, value in vars(LossConfig()).items() if isinstance(value, float)}
    objective = fold_objective(output, batch, (False,), LossConfig(**zero | {term: 3.0}, scale_by_length=False))
    assert objective.loss.item() == pytest.approx(3 * objective.terms[term].item(), rel=1e-6)
    objective.loss.backward()
    assert leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0
    if term == "masked_lm":
        assert not leaf.grad[:, ~output.masked[0]].any()
    without = fold_objective(output, batch, (False,), LossConfig(**zero, scale_by_length=False))
    assert term not in without.terms and without.loss == 0


def test_the_aligned_error_follows_the_rule_of_the_resolution(records):
    batch = collate([Crop(records[0])])
    values = {}
    for resolution in (1.1, 3.5, float("nan"), float("inf")):
        changed = replace(batch, resolution=torch.tensor([resolution]))
        values[str(resolution)] = fold_objective(guess(changed), changed, (True,), ALL_TERMS).terms["pae"].item()
    assert values["3.5"] == values["inf"] == 0
    assert values["1.1"] == values["nan"] > 1


@pytest.mark.parametrize("sample", [0, 1])
def test_what_is_not_a_number_shows_in_the_term_of_its_own_sample(records, sample):
    batch = collate([Crop(record) for record in records])
    output = guess(batch)
    broken = output.distogram_logits.clone()
    broken[sample, 3, 4, 5] = float("nan")
    terms = fold_objective(replace(output, distogram_logits=broken), batch, (True, True), ALL_TERMS).terms
    bad = {(name, i) for name, values in terms.items() for i in range(2) if not values[i].isfinite()}
    assert bad == {("distogram", sample)}


def test_a_bad_resolution_takes_the_plddt_loss_away_and_an_unknown_one_does_not(records):
    batch = collate([Crop(records[0])])
    output = perfect(batch)
    wrong = torch.zeros_like(output.plddt_logits)
    output = FoldOutput(output.structure, output.single, output.pair, output.distogram_logits, wrong)
    values = {}
    for resolution in (1.1, 3.5, float("nan")):
        changed = Batch(**{**vars(batch), "resolution": torch.tensor([resolution])})
        values[str(resolution)] = fold_objective(output, changed, (True,), LossConfig()).terms["plddt"].item()
    assert values["3.5"] == 0
    assert values["1.1"] == values["nan"] > 3


def test_substitutions():
    aatype = torch.zeros(50, 200, dtype=torch.int64)
    shown = substitute_residues(aatype, 0.2, seed=1)
    assert torch.equal(shown, substitute_residues(aatype, 0.2, seed=1))
    assert not torch.equal(shown, substitute_residues(aatype, 0.2, seed=2))
    assert (shown != 0).float().mean().item() == pytest.approx(0.2 * 19 / 20, abs=0.01)
    assert set(shown.unique().tolist()) == set(range(20))
    assert torch.equal(substitute_residues(aatype, 0.0, seed=1), aatype)


def test_masked_residues():
    aatype = torch.full((50, 200), 7)
    shown = mask_residues(aatype, 0.15, seed=1)
    assert torch.equal(shown, mask_residues(aatype, 0.15, seed=1))
    assert set(shown.unique().tolist()) == {7, MASKED}
    assert (shown == MASKED).float().mean().item() == pytest.approx(0.15, abs=0.01)
    replaced = substitute_residues(aatype, 0.15, seed=1) != 7
    assert not torch.equal(replaced, shown == MASKED)  # other draws of the same seed
    assert torch.equal(mask_residues(aatype, 0.0, seed=1), aatype)


def test_crops_are_windows(records):
    import numpy as np

    record = records[1]
    crop = random_crop(record, 20, np.random.default_rng(0))
    batch = collate([crop, Crop(records[0])])
    window = slice(crop.start, crop.start + 20)
    assert batch.aatype[0, :20].tolist() == record.aatype[window].tolist()
    assert batch.residue_index[0, :20].tolist() == record.residue_index[window].tolist()
    assert batch.mask.sum(dim=1).tolist() == [20, len(records[0])]
    assert random_crop(record, 500, np.random.default_rng(0)) == Crop(record)
    starts = {random_crop(record, 20, np.random.default_rng(seed)).start for seed in range(500)}
    assert (min(starts), max(starts)) == (0, len(record) - 20)
