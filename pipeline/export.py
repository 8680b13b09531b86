"""Export: a trained run as files that other programs load.

python -m pipeline.export --run RUN --to hf --out DIR
"""

import argparse
import sys
from pathlib import Path

from data_prep.files.atomic import writing_directory
from data_prep.files.command_line import add_version_option, run_command
from pipeline.config.command import add_checkpoint_option


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.export",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Write a trained run as files that other programs load:\n\n"
            "  hf      a directory for transformers' EsmForProteinFolding, adapters merged; for runs of ESMFold's\n"
            "          architecture (--preset esmfold, or started from its weights), others are refused\n"
            "  lora    the adapters as plain LoRA in PEFT's format: DIR/stem for fair-esm's ESM-2,\n"
            "          DIR/stem_transformers for transformers' EsmModel (PeftModel.from_pretrained takes it), and\n"
            "          DIR/sequence, DIR/triangle for the trunk's attention where it is adapted\n"
            "  merged  one file, adapters merged, with its configuration: DIR/model.safetensors and DIR/model.toml\n\n"
            "examples:\n"
            "  python -m pipeline.export --run RUN --to merged --out DIR\n"
            "  python -m pipeline.predict --run DIR --fasta SEQS.fasta --out PREDS"
        ),
    )
    add_version_option(p)
    p.add_argument("--run", required=True, help="run directory of pipeline.train")
    p.add_argument("--to", choices=["hf", "lora", "merged"], required=True, help="see above")
    p.add_argument("--out", type=Path, required=True, help="new directory")
    add_checkpoint_option(p)
    p.add_argument("--weights", default="", metavar="FILE", help="the whole model that training started from, if moved")
    p.add_argument("--esm-weights", default="", metavar="FILE", help="the stem's pretrained weights, if they moved")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    arguments = parser().parse_args(argv)

    from pipeline.config.command import make_console
    from pipeline.folding.model_files import write_hugging_face, write_ours
    from pipeline.prediction.export import ExportError, check_esmfold, export_adapters, without_adapters
    from pipeline.prediction.loading import Source, load
    from pipeline.runs.initial import MERGED_FILE

    def body(arguments: argparse.Namespace) -> int:
        out: Path = arguments.out
        if out.exists():
            raise ExportError(f"--out {out}: is there already, and would be overwritten")
        loaded = load(Source(arguments.run, arguments.checkpoint, arguments.weights, arguments.esm_weights))
        console = make_console()
        if arguments.to == "lora":
            out.parent.mkdir(parents=True, exist_ok=True)
            with writing_directory(out) as folder:
                names = [written.name for written in export_adapters(loaded.model, folder)]
            for name in names:
                console.print(f"Wrote {out / name}: adapter_model.safetensors, adapter_config.json", markup=False)
            console.print("It holds the adapters alone: what else was trained is in --to merged.")
            return 0
        if arguments.to == "hf":
            check_esmfold(loaded.model.config, arguments.run)
        converted = without_adapters(loaded.model)
        if arguments.to == "hf":
            write_hugging_face(converted, out)
            console.print(f"Wrote {out}: {loaded.description}, for transformers' EsmForProteinFolding", markup=False)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            with writing_directory(out) as folder:
                write_ours(converted, folder / MERGED_FILE)
            console.print(f"Wrote {out / MERGED_FILE} and {out / 'model.toml'}: {loaded.description}", markup=False)
        console.print(f"Next: python -m pipeline.predict --run {out} --fasta SEQS.fasta --out PREDS", markup=False)
        return 0

    return run_command(body, arguments)


if __name__ == "__main__":
    sys.exit(main())
