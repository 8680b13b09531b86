"""Checkpoints: round trip, damage, what is kept."""

import shutil

import pytest
import torch

from pipeline.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    save_checkpoint,
)


def checkpoint(step: int) -> Checkpoint:
    tensors = {"w": torch.full((2,), float(step))}
    return Checkpoint(step=step, trained=tensors, ema=tensors, optimizer={"w/exp_avg": torch.zeros(2)})


def test_round_trip_and_keep(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 3]
    found = latest_checkpoint(tmp_path)
    assert found.step == 3
    assert torch.equal(found.trained["w"], torch.full((2,), 3.0))
    assert latest_checkpoint(tmp_path, step=2).step == 2
    with pytest.raises(CheckpointError, match="no checkpoint of step 1; there are: 2, 3"):
        latest_checkpoint(tmp_path, step=1)


def test_the_best_is_spared(tmp_path):
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, checkpoint(step), keep=1, spare=2)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2, 4]


def test_a_copy_that_a_user_has_put_beside_is_left_alone(tmp_path):
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    copy = tmp_path / "step_00000001_before_the_change"
    shutil.copytree(path, copy)
    save_checkpoint(tmp_path, checkpoint(2), keep=1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [2] and (copy / "state.json").is_file()


def test_one_changed_bit_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path, checkpoint(1), keep=5)
    content = bytearray((path / "ema.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "ema.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors has not the checksum"):
        read_checkpoint(path)
    with (
        pytest.warns(UserWarning, match="going back to the one before"),
        pytest.raises(CheckpointError, match=r"none of its 1 checkpoint\(s\) can be read"),
    ):
        latest_checkpoint(tmp_path)


def test_what_cannot_be_written_keeps_the_last_good_one(tmp_path, small_files):
    """No file of more than 1 kB, as on a disk that is full: an OSError, the checkpoint before it, no other trace."""
    save_checkpoint(tmp_path, checkpoint(1), keep=1)
    big = Checkpoint(step=2, trained={"w": torch.zeros(10_000)}, ema={}, optimizer={})
    with small_files(1000), pytest.raises(OSError, match="step_00000002"):
        save_checkpoint(tmp_path, big, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert latest_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("part", ["trained.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, part):
    save_checkpoint(tmp_path, checkpoint(1), keep=5)
    newest = save_checkpoint(tmp_path, checkpoint(2), keep=5)
    content = (newest / part).read_bytes()
    (newest / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        read_checkpoint(newest)
    with pytest.warns(UserWarning, match="going back to the one before"):
        assert latest_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "Expecting value"),
        ("[]", "list indices"),
        ('{"format_version": 1}', "'step'"),
        ('{"format_version": 1, "step": 2, "sha256": {}}', "checkpoint format 1, this version reads 2"),
        (
            '{"format_version": 2, "step": "two", "sha256": {"trained": "", "ema": "", "optimizer": ""}}',
            "not a readable",
        ),
    ],
)
def test_a_damaged_state_is_passed_over_with_a_warning(tmp_path, content, message):
    save_checkpoint(tmp_path, checkpoint(1), keep=5)
    state = save_checkpoint(tmp_path, checkpoint(2), keep=5) / "state.json"
    state.unlink() if content is None else state.write_text(content)
    with pytest.warns(UserWarning, match=message):
        assert latest_checkpoint(tmp_path).step == 1


def test_a_changed_step_is_noticed(tmp_path):
    """The state has no checksum: the name of its directory says the same."""
    path = save_checkpoint(tmp_path, checkpoint(2), keep=5)
    text = (path / "state.json").read_text()
    (path / "state.json").write_text(text.replace('"step": 2', '"step": 3'))
    with pytest.raises(CheckpointError, match=r"state\.json is that of step 3"):
        read_checkpoint(path)


def test_damaged_ones_do_not_count_among_those_to_keep(tmp_path):
    """The run has gone back behind steps 4 and 6 and writes 3: with one to keep it is this one."""
    for step in (2, 4, 6):
        path = save_checkpoint(tmp_path, checkpoint(step), keep=5)
        if step > 2:
            (path / "ema.safetensors").unlink()
    save_checkpoint(tmp_path, checkpoint(3), keep=1)
    assert [step for step, _ in list_checkpoints(tmp_path)] == [3, 4, 6]
    with pytest.warns(UserWarning, match="going back"):
        assert latest_checkpoint(tmp_path).step == 3


def test_an_interrupted_write_is_not_a_checkpoint(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1), keep=5)
    (tmp_path / ".step_00000002.77").mkdir()
    assert latest_checkpoint(tmp_path).step == 1
    assert latest_checkpoint(tmp_path / "elsewhere") is None


def test_optimizer_state_goes_on_exactly():
    """Two steps, or one step, save, load into a new optimizer, one step: the same parameter."""

    def run(break_after_one: bool) -> torch.Tensor:
        parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        parameters = {"w": parameter}
        optimizer = torch.optim.Adam([parameter], lr=0.1)
        for step in range(2):
            if step == 1 and break_after_one:
                tensors = optimizer_tensors(optimizer, parameters)
                optimizer = torch.optim.Adam([parameter], lr=0.1)
                load_optimizer(optimizer, tensors, parameters)
            parameter.grad = 2 * parameter.detach() + step
            optimizer.step()
        return parameter.detach()

    assert torch.equal(run(False), run(True))


def test_missing_optimizer_state_is_an_error():
    parameter = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(CheckpointError, match="no optimizer state of w"):
        load_optimizer(torch.optim.Adam([parameter]), {}, {"w": parameter})
