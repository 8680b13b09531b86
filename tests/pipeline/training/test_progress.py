"""What is seen of a running training: a bar on a terminal, lines elsewhere; what stops it."""

import io
import signal

import pytest
from rich.console import Console

from pipeline.config import progress as progress_module
from pipeline.config.progress import ProgressOfSteps, interruptible


def shown(terminal: bool) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=120, highlight=False)
    progress = ProgressOfSteps(console, start=10, total=20)
    with progress.shown():
        for step in (11, 12):
            progress.score = 0.5
            progress.advance(step=step, loss=1.25, samples=8, memory=2048)
    return screen.getvalue()


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch):
    bar = shown(terminal=True)
    assert "12/20" in bar and "loss 1.250  lDDT 0.500" in bar and "2.0 GB" in bar
    assert shown(terminal=False) == "", "two steps within the seconds between two lines"
    monkeypatch.setattr(progress_module, "PLAIN_PROGRESS_SECONDS", 0.0)
    first, second = shown(terminal=False).splitlines()
    assert first.startswith("step 11/20  loss 1.250") and second.startswith("step 12/20") and second.endswith("left")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(119, "119 s"), (121, "2 min"), (3600, "1 h 00 min"), (36_000 + 59 * 60, "10 h 59 min"), (864_000, "10 days")],
)
def test_durations(seconds, words):
    assert progress_module.duration(seconds) == words


def test_the_first_ctrl_c_is_noted_and_the_second_stops_at_once():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruptible() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()
        signal.raise_signal(signal.SIGINT)  # of the launcher's two
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
