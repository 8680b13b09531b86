"""OpenFold as it is installed, and the rule for how close is close enough.

Whatever imports this module is skipped where ``openfold`` is not installed. OpenFold's functions average over their
batch, some of them with sums that run over it, and ours give one value per sample: losses are compared sample by
sample.
"""
# ruff: noqa: E402  # the skip comes before the imports that need it

import numpy as np
import pytest
import torch
from torch import Tensor, nn

INSTALL = (
    "pip install --no-build-isolation --no-deps "
    '"openfold @ git+https://github.com/aqlaboratory/openfold@ce0029e" ml-collections'
)
pytest.importorskip("openfold", reason=f"openfold is not installed (README, Installation): {INSTALL}")

from openfold.config import model_config as model_config
from openfold.data import data_transforms
from openfold.model import outer_product_mean as outer_product_mean
from openfold.model import pair_transition as pair_transition
from openfold.model import structure_module as structure_module
from openfold.model import triangular_attention as triangular_attention
from openfold.model import triangular_multiplicative_update as triangular_multiplicative_update
from openfold.np import residue_constants as residue_constants
from openfold.utils import feats as feats
from openfold.utils import loss as loss
from openfold.utils.rigid_utils import Rigid as Reference
from openfold.utils.rigid_utils import Rotation

from data_prep.structure import residues, rigid_groups
from pipeline.folding.frames import Rigid
from tests.openfold.inputs import UNKNOWN, Features, Random

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
"""Of the largest value of what is compared."""


def assert_agree(ours: Tensor, theirs: Tensor, mask: Tensor | None = None, looser: float = 1.0) -> None:
    """Assert that two tensors agree, integers and bools exactly.

    ``mask`` (its shape or leading dimensions) says where they count; ``looser`` multiplies the tolerance where a
    result is worse conditioned than its inputs.
    """
    assert ours.shape == theirs.shape
    if not theirs.is_floating_point():
        assert torch.equal(ours.to(theirs.dtype), theirs)
        return
    if mask is not None:
        there = mask.bool().reshape(*mask.shape, *(1,) * (ours.dim() - mask.dim()))
        ours, theirs = ours.where(there, 0), theirs.where(there, 0)
    limit = looser * TOLERANCE[torch.get_default_dtype()] * theirs.abs().max().item()
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=0, atol=limit)


def assert_same_gradients(
    ours: Tensor, theirs: Tensor, leaves: list[Tensor], mask: Tensor | None = None, looser: float = 1.0
) -> None:
    """Assert that a random combination of the elements has the same gradient with respect to each of ``leaves``.

    ``mask`` as in ``assert_agree``. A leaf without any gradient is an error.
    """
    cotangent = Random(0).normal(*theirs.shape)
    if mask is not None:
        cotangent = cotangent * mask.reshape(*mask.shape, *(1,) * (theirs.dim() - mask.dim()))
    gradients = [torch.autograd.grad((x * cotangent).sum(), leaves, retain_graph=True) for x in (ours, theirs)]
    for mine, reference in zip(*gradients, strict=True):
        assert reference.abs().max() > 0
        assert_agree(mine, reference, looser=looser)


def rigid_of(ours: Rigid) -> Reference:
    """OpenFold's form of our transforms."""
    return Reference(Rotation(rot_mats=ours.rot), ours.trans)


def residue_tables() -> dict[str, Tensor]:
    """Our tables under OpenFold's names, after comparison: OpenFold's are float32, too coarse for a test in float64."""
    ours = {
        "default_frames": rigid_groups.DEFAULT_GROUP_FRAMES.copy(),
        "group_idx": rigid_groups.ATOM14_TO_RIGID_GROUP,
        "atom_mask": residues.RESTYPE_ATOM14_MASK.astype(float),
        "lit_positions": rigid_groups.IDEAL_ATOM14_POSITIONS,
    }
    ours["default_frames"][UNKNOWN, 0] = 0  # ours has an identity there
    theirs = {
        "default_frames": residue_constants.restype_rigid_group_default_frame,
        "group_idx": residue_constants.restype_atom14_to_rigid_group,
        "atom_mask": residue_constants.restype_atom14_mask,
        "lit_positions": residue_constants.restype_atom14_rigid_group_positions,
    }
    for name, table in theirs.items():
        np.testing.assert_allclose(ours[name], table, rtol=0, atol=1e-6, err_msg=name)
    tensors = {name: torch.from_numpy(table) for name, table in ours.items()}
    return {name: x.to(torch.get_default_dtype()) if x.is_floating_point() else x for name, x in tensors.items()}


def sample(features: Features, index: int) -> Features:
    """One sample, without the batch dimension."""
    return {name: value[index] for name, value in features.items()}


def with_derived_features(protein: Features) -> Features:
    """What OpenFold's pipeline derives from the atoms of one sample, under its names; some masks are float32 there."""
    protein = dict(protein)
    for transform in (
        data_transforms.make_atom14_masks,
        data_transforms.make_atom14_positions,
        data_transforms.atom37_to_frames,
        data_transforms.atom37_to_torsion_angles(""),
        data_transforms.make_pseudo_beta(""),
        data_transforms.get_backbone_frames,
        data_transforms.get_chi_angles,
    ):
        protein = transform(protein)
    dtype = torch.get_default_dtype()
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in protein.items()}


def share_weights(ours: nn.Module, theirs: nn.Module, rng: Random, renamed: dict[str, str] | None = None) -> None:
    """Give both modules the same random parameters, by name; ``renamed`` maps our names of layers to theirs.

    They are the same tensors, so that gradients of both can be taken with respect to them.
    """
    parameters = {}
    for name, parameter in ours.named_parameters():
        parameter.data = 0.3 * rng.normal(*parameter.shape)
        layer, _, last = name.rpartition(".")
        parameters[f"{renamed[layer]}.{last}" if renamed else name] = parameter
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert {name: parameter.shape for name, parameter in parameters.items()} == shapes
    for name, parameter in parameters.items():
        layer, _, last = name.rpartition(".")
        theirs.get_submodule(layer).register_parameter(last, parameter)
    ours.eval(), theirs.eval()
