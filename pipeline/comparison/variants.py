"""Variants of a comparison: an adapter and a seed each, trained by the train command in a process of its own."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lorta.config
from data_prep.dataset.store import StructureDataset
from data_prep.files.atomic import write_text
from data_prep.files.bounded_reading import read_json
from data_prep.files.command_line import EXIT_INTERRUPTED
from data_prep.files.errors import UserError
from data_prep.files.text import csv_text
from data_prep.files.workers import handled_by
from evaluation.baselines import Baseline, read_baselines
from pipeline.config.command import child_environment
from pipeline.config.device import pick_device
from pipeline.config.schema import ADAPTER_METHODS, RunConfig
from pipeline.runs.directory import RunDirectory, load_run
from pipeline.training.command import fresh_configuration
from pipeline.training.data import own_ids
from pipeline.training.options import parser as train_parser
from pipeline.training.validation import validate

WITHOUT_RANK = tuple(method for method in ADAPTER_METHODS if method not in lorta.config.WEIGHT_METHODS)
TRAIN_SCORES = "train_scores.csv"
OWN_OPTIONS = (
    *("--seed", "--training.seed", "--adapter", "--adapter.method", "--rank", "--adapter.rank"),
    *("--auto-resume", "--dry-run", "--max-minutes"),
)
"""Of the train command, that a variant gives it or that make no sense for it."""


DRAW = ("--data.train_size", "--data.train_draw")
"""Of the train command, that a variant of some of the chains gives it."""


class ComparisonError(UserError):
    """A variant that cannot be understood; the message is one line."""


@dataclass(frozen=True)
class Adapter:
    """What differs between variants."""

    method: str
    rank: int = 0
    alpha: float | None = None
    """None: that of the configuration."""

    @property
    def name(self) -> str:
        """As on the command line."""
        rank = f":{self.rank}" if self.rank else ""
        return f"{self.method}{rank}" + ("" if self.alpha is None else f":{self.alpha:g}")

    @property
    def folder(self) -> str:
        """As a file name."""
        return self.name.replace(":", "_")

    def options(self) -> list[str]:
        """For the train command."""
        words = ["--adapter", self.method]
        words += ["--rank", str(self.rank)] if self.rank else []
        return words if self.alpha is None else [*words, "--adapter.alpha", repr(self.alpha)]


def parse_adapters(text: str) -> list[Adapter]:
    """``none,lora:1,lorta:8,lorta:8:256`` to adapters: method, rank, alpha. Raises ComparisonError."""
    adapters = []
    for word in text.split(","):
        method, *numbers = word.strip().split(":")
        if not method or len(numbers) > 2 or (method in WITHOUT_RANK and numbers):
            alone = ", ".join(WITHOUT_RANK)
            raise ComparisonError(
                f"--adapters: {word!r} is not METHOD:RANK or METHOD:RANK:ALPHA, or one of {alone} alone"
            )
        if method not in ADAPTER_METHODS:
            raise ComparisonError(f"--adapters: {method!r} is not a method: one of {', '.join(ADAPTER_METHODS)}")
        if method not in WITHOUT_RANK and not numbers:
            raise ComparisonError(f"--adapters: {word!r} needs a rank, as in {method}:8")
        try:
            rank = int(numbers[0]) if numbers else 0
            adapters.append(Adapter(method, rank, float(numbers[1]) if len(numbers) == 2 else None))
        except ValueError:
            raise ComparisonError(f"--adapters: {word!r}: rank and alpha are numbers") from None
    if len({adapter.name for adapter in adapters}) < len(adapters):
        raise ComparisonError(f"--adapters: {text!r} names an adapter twice")
    return adapters


@dataclass(frozen=True)
class Variant:
    """One training run of the comparison."""

    adapter: Adapter
    seed: int
    path: Path
    """Its run directory."""
    size: int = 0
    """Training chains, drawn anew for each seed; 0: all of the dataset's, or those that the options say."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.adapter.name}, " + (f"{self.size} chains, " if self.size else "") + f"seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its training printed."""
        return self.path.with_name(f"{self.path.name}.log")

    def is_trained(self) -> bool:
        """Whether it was trained to its end."""
        return RunDirectory(self.path).summary_file.is_file()

    def is_done(self) -> bool:
        """Whether it was trained to its end and scored."""
        return (self.path / TRAIN_SCORES).is_file()

    def train(self, data: Path, options: Sequence[str]) -> str:
        """Train it, or go on where it stood; what it prints goes to its log. Returns what went wrong, empty if nothing.

        Raises KeyboardInterrupt when the training was interrupted.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        words = ["--data", str(data), "--out", str(self.path), "--resume", *self._options(options)]
        code = _run([sys.executable, "-m", "pipeline.train", *words], self.log)
        if not code:
            return ""
        last = self.log.read_text().strip().splitlines()[-1:]
        return last[0].removeprefix("error: ") if last else f"exit code {code}"

    def configuration(self, options: Sequence[str]) -> RunConfig:
        """Return what the train command makes of these options.

        Raises what it would, and ComparisonError for an option that a variant sets by itself.
        """
        given = {word.partition("=")[0] for word in options}
        own = (
            *OWN_OPTIONS,
            *(() if self.adapter.alpha is None else ("--alpha", "--adapter.alpha")),
            *(DRAW if self.size else ()),
        )
        for option in own:
            if option in given:
                raise ComparisonError(f"{option}: set for each run, leave it out")
        return fresh_configuration(*train_parser().parse_known_args(self._options(options)))

    def _options(self, shared: Sequence[str]) -> list[str]:
        drawn = [DRAW[0], str(self.size), DRAW[1], str(self.seed)] if self.size else []
        return ["--seed", str(self.seed), *self.adapter.options(), *drawn, *shared]

    def score_training_chains(self, dataset: StructureDataset, count: int, device: str) -> None:
        """Fold the first ``count`` training chains at full length, as validation does; this ends the variant."""
        target = pick_device(device)
        model, _ = load_run(self.path)
        names = own_ids(dataset, model.config.data)[:count]
        scores = validate(model.to(target), [dataset.load(name) for name in names], target)
        rows = ((score.target, score.length, f"{score.lddt_ca:.9g}") for score in scores or ())
        write_text(self.path / TRAIN_SCORES, csv_text(("target", "length", "lddt_ca"), rows))

    def adapter_bytes(self) -> int:
        """Size of the adapter alone on disk; 0 without one."""
        return sum(file.stat().st_size for file in RunDirectory(self.path).adapter.glob("*.safetensors"))

    def baselines(self) -> list[Baseline]:
        """What a helix and a copy score on its validation chains; nothing of a variant of an earlier version.

        Raises ComparisonError: the table is damaged.
        """
        try:
            return read_baselines(RunDirectory(self.path).baselines_file)
        except ValueError as error:
            raise ComparisonError(str(error)) from None

    def alpha(self) -> float | None:
        """The scale of its adapter; None without one."""
        file = RunDirectory(self.path).adapter / "adapter_config.json"
        if not file.is_file():
            return None
        settings = read_json(file)["config"]
        return settings.get("alpha")


def _run(command: Sequence[str], log: Path) -> int:
    """The exit code of a process that prints to ``log``.

    Ctrl-C and SIGTERM are passed on, and the process is waited for: it saves before it ends.

    Raises KeyboardInterrupt: one of them came.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    with (
        log.open("a") as stream,
        subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=child_environment()) as process,
        handled_by(stop, signal.SIGINT, signal.SIGTERM),
    ):
        code = process.wait()
    if stopped or code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return code
