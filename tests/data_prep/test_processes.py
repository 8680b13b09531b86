"""Processes that end when they should."""

import os
import signal
import subprocess
import sys
import time

import pytest

from data_prep.files.workers import ProcessKilledError, in_processes


def square(number: int) -> int:
    return number * number


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(number: int) -> None:
    print(os.getpid(), flush=True)
    time.sleep(60)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_item_once(jobs):
    assert sorted(in_processes(square, range(9), jobs)) == [n * n for n in range(9)]
    assert list(in_processes(square, [], jobs)) == []


def test_a_killed_process_is_an_error():
    with pytest.raises(ProcessKilledError, match="a worker process was killed"):
        list(in_processes(die, range(3), 2))


def test_processes_end_with_their_parent_and_say_nothing(tmp_path):
    """The parent is killed as by a batch system, after an interrupt of the whole group that only it should see."""
    (tmp_path / "parent.py").write_text(
        "from data_prep.files.workers import in_processes\n"
        "from tests.data_prep.test_processes import sleep\n"
        "if __name__ == '__main__':\n"
        "    list(in_processes(sleep, range(2), 2))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    children = [int(parent.stdout.readline()) for _ in range(2)]
    for child in children:
        os.kill(child, signal.SIGINT)
    time.sleep(0.2)
    assert all(map(is_running, children)), "they leave it to the parent what an interrupt means"
    parent.kill()
    wrote = parent.communicate()[1]  # ends when the last process has closed its end
    assert "Traceback" not in wrote
    deadline = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
