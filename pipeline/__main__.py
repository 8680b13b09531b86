"""List the commands, or run one: ``lorta-fold train ...`` is ``python -m pipeline.train ...``."""

import difflib
import runpy
import sys

from data_prep.files.command_line import program

COMMANDS = {
    "prepare": ("pipeline.prepare", "structure files to a dataset"),
    "train": ("pipeline.train", "a dataset to a run: the folding model over an adapted ESM-2"),
    "predict": ("pipeline.predict", "a run and sequences to predicted structures"),
    "evaluate": ("evaluation.lddt", "predicted and true structures to scores and a report"),
    "compare-scores": ("evaluation.compare", "two tables of scores, target by target"),
    "compare": ("pipeline.compare", "adapters and seeds side by side; the best alpha"),
    "learning-curve": ("pipeline.learning_curve", "is training worth it with N structures, and what would more bring?"),
    "export": ("pipeline.export", "a run as files that other programs load"),
    "weights": ("pipeline.weights", "a whole ESMFold-like model from one layout to another"),
    "demo": ("pipeline.demo", "all of the above on bundled structures"),
    "demo-weights": ("pipeline.demo_weights", "find or fetch the smallest pretrained ESM-2"),
    "nlu": ("pipeline.nlu", "language models: fine-tune an encoder on GLUE tasks"),
    "sft": ("pipeline.sft", "language models: instruction tuning"),
    "dpo": ("pipeline.dpo", "language models: preference tuning"),
    "lm-compare": ("pipeline.lm_compare", "language models: a table of methods, tasks and seeds"),
    "mtbench": ("pipeline.mtbench", "language models: answers to MT-Bench"),
}
"""Name -> module and what it does."""


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first word names; returns the exit code, or raises SystemExit as the command does."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "--version":
        print(program())
        return 0
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = [f"  {command:<{width}}  {said}" for command, (_, said) in COMMANDS.items()]
        print("usage: lorta-fold COMMAND [options]", "", *lines, "", "lorta-fold COMMAND --help says more.", sep="\n")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "lorta-fold --help lists them"
        print(f"error: {name!r} is not a command: {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"lorta-fold {name}", *words]
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
