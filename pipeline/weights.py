"""Weights: convert a whole ESMFold-like model between Hugging Face's files, ours and, to read, fair-esm's; all local.

python -m pipeline.weights --from esmfold_3B_v1.pt --esm-weights esm2_t36_3B_UR50D.pt --to ours --out FILE.safetensors
"""

import argparse
import sys
from pathlib import Path

from data_prep.files.command_line import add_version_option, run_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m pipeline.weights",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Convert a folding model from fair-esm's esmfold_3B_v1.pt, a Hugging Face directory or our own\n"
            "safetensors file with its configuration (TOML) beside it, to one of the last two. Local files only;\n"
            "nothing in them is run.\n\n"
            "examples:\n"
            "  python -m pipeline.weights --from ESMFOLD_DIR --to ours --out esmfold.safetensors\n"
            "  python -m pipeline.weights --from esmfold_3B_v1.pt --esm-weights esm2_t36_3B_UR50D.pt --to hf --out DIR"
        ),
    )
    add_version_option(p)
    p.add_argument(
        "--from",
        dest="source",
        type=Path,
        required=True,
        metavar="FILE_OR_DIR",
        help="a .pt file (fair-esm), a directory (Hugging Face) or a .safetensors file (ours)",
    )
    p.add_argument("--to", choices=["hf", "ours"], required=True, help="layout to write")
    p.add_argument("--out", type=Path, required=True, help="new directory (hf) or .safetensors file (ours)")
    p.add_argument(
        "--esm-weights",
        type=Path,
        metavar="FILE",
        help="ESM-2's weights (fair-esm's .pt or a Hugging Face directory) for a .pt without the stem",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = parser().parse_args(argv)

    from pipeline.config.command import make_console
    from pipeline.folding.model_files import read, write_hugging_face, write_ours
    from pipeline.folding.weights import UNUSED, WeightsError

    def body(arguments: argparse.Namespace) -> int:
        out: Path = arguments.out
        if arguments.to == "ours" and out.suffix != ".safetensors":
            raise WeightsError(f"--out {out}: the name must end in .safetensors")
        for path in (out, out.with_suffix(".toml")) if arguments.to == "ours" else (out,):
            if path.exists():
                raise WeightsError(f"--out {path}: is there already, and would be overwritten")
        model = read(arguments.source, arguments.esm_weights)
        (write_ours if arguments.to == "ours" else write_hugging_face)(model, out)
        console = make_console()
        numbers = sum(value.numel() for name, value in model.state.items() if not name.startswith(UNUSED))
        shape = f"{model.config.trunk.blocks} blocks over {model.config.stem.name}"
        console.print(f"Wrote {out} ({arguments.to}): {shape}, {numbers:,} numbers")
        if arguments.to == "hf" and UNUSED + "lm_head.weight" not in model.state:
            console.print("lm_head and contact_head were not in the source: transformers will report them as missing.")
            console.print("No prediction reads them.")
        return 0

    return run_command(body, arguments)


if __name__ == "__main__":
    sys.exit(main())
