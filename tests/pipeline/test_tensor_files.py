"""Tensors are on disk as a whole or not at all."""

import pytest
import torch
from safetensors.torch import load_file

from pipeline.tensor_files import write_tensors


def test_a_write_that_fails_is_an_os_error_and_leaves_the_file_before(tmp_path, small_files):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).reshape(2, 3).T}, {"note": "first"})
    with small_files(1000), pytest.raises(OSError, match=f"File too large: '{path}'"):
        write_tensors(path, {"a": torch.zeros(1000)})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert load_file(path)["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
