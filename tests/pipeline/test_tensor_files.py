"""Tensors are on disk as a whole or not at all; a damaged file of torch.save is one error."""

import argparse
import os
import random
import sys

import pytest
import torch
from safetensors.torch import load_file

from pipeline.folding.tensor_files import UnreadableError, read_pickle, write_tensors


def test_a_write_that_fails_is_an_os_error_and_leaves_the_file_before(tmp_path, small_files):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6.0).reshape(2, 3).T}, {"note": "first"})
    with small_files(1000), pytest.raises(OSError, match=f"File too large: '{path}'"):
        write_tensors(path, {"a": torch.zeros(1000)})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert load_file(path)["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes")
def test_others_may_read_what_they_may_of_every_file(tmp_path):
    path, plain = tmp_path / "x.safetensors", tmp_path / "plain"
    before = os.umask(0o027)
    try:
        write_tensors(path, {"a": torch.zeros(2)})
        plain.touch()
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode and path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_file_is_one_line(tmp_path, zipped, recwarn):
    """Cut off, or with some bytes changed: torch raises a dozen kinds of errors. What still reads is as it was."""
    path, generator = tmp_path / "x.pt", random.Random(0)
    content = {"model": {"weight": torch.arange(6.0)}, "args": argparse.Namespace(layers=2)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    assert read_pickle(path, [argparse.Namespace])["args"].layers == 2
    refused = 0
    for turn in range(300):
        damaged = bytearray(whole)
        if turn % 3:
            for _ in range(generator.choice((1, 3, 10))):
                damaged[generator.randrange(len(damaged) if zipped else 400)] = generator.randrange(256)
        else:
            del damaged[generator.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            read_pickle(path, [argparse.Namespace])
        except UnreadableError as error:
            refused += 1
            assert str(error).startswith(f"{path}: cannot be read safely: ") and len(str(error).splitlines()) == 1
    assert refused > 100
    assert not recwarn.list
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_pickle(path)
