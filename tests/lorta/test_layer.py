import pytest
import torch

import lorta


@pytest.fixture
def layer(plain, perturb):
    perturb(lorta.attach(plain, r=3, seed=0))
    return plain.blocks[1].o_proj


def test_no_dense_matrix_in_the_forward(layer):
    """No tensor of the weight's shape is made: nothing of [out, in] or larger beside the base weight itself."""
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append((str(function), tuple(result.shape)))
            return result

    x = torch.randn(2, 24)
    with Watch(), torch.no_grad():
        layer(x)
    weights = [entry for entry in made if entry[1] == (24, 24) and "aten.t." not in entry[0]]
    assert made
    assert weights == []


def test_weight_cannot_be_read_by_accident(layer):
    with pytest.raises(AttributeError, match=r"blocks.1.o_proj is adapted and has no weight of its own"):
        _ = layer.weight
    assert not hasattr(layer, "weight")


def test_state_holds_the_base_only(layer):
    assert list(layer.state_dict()) == ["base_layer.weight"]


def test_base_weight_is_the_frozen_one_merged_or_not(layer):
    before = layer.base_layer.weight.clone()
    assert torch.equal(layer.base_weight(), before)
    layer.merge()
    assert not torch.equal(layer.base_layer.weight, before)
    assert torch.equal(layer.base_weight(), before)


def test_merge_keeps_the_parameter_object(layer):
    """Optimizers, tied weights and wrappers hold the object; merging must write into it."""
    parameter = layer.base_layer.weight
    layer.merge()
    assert layer.base_layer.weight is parameter
    layer.unmerge()
    assert layer.base_layer.weight is parameter


def test_leading_dimensions(layer):
    x = torch.randn(2, 3, 5, 24)
    torch.testing.assert_close(layer(x)[1, 2], layer(x[1, 2]))


def test_no_tokens_at_all(layer):
    assert layer(torch.zeros(0, 5, 24)).shape == (0, 5, 24)


def test_one_vector(layer):
    x = torch.randn(24)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


def test_trainable_base_keeps_its_gradient(plain, tokens):
    """A caller may unfreeze: the base path is the base module itself."""
    lorta.attach(plain, r=2)
    plain.blocks[0].q_proj.base_layer.requires_grad_(True)
    plain(tokens).pow(2).mean().backward()
    assert plain.blocks[0].q_proj.base_layer.weight.grad.abs().max() > 0
    assert plain.blocks[0].k_proj.base_layer.weight.grad is None
