"""The objective on real residues: a perfect prediction, unknown atoms, padding, weights."""

from pathlib import Path

import pytest
import torch

from data_prep.structure_io import read_structure
from pipeline.config import LossConfig
from pipeline.folding.geometry import atom37_to_atom14, atom37_to_rigid_groups, atom37_to_torsions
from pipeline.folding.model import FoldOutput
from pipeline.folding.structure_module import StructureOutput
from pipeline.losses.distogram import distance_bins
from pipeline.training.data import Batch, Crop, collate, random_crop, substitute_residues
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
