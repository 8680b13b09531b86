"""Export: a trained run as files that other programs load.

python -m pipeline.export --run RUN --to hf --out DIR
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import lorta
from data_prep.files.release import add_version_option
from pipeline.config.command import add_checkpoint_option, make_console, run_command
from pipeline.config.schema import AdapterConfig, InitConfig, RunConfig, StemConfig, TrunkAdapterConfig
from pipeline.folding import esm2_names
from pipeline.folding.model import FoldingModel
from pipeline.folding.model_files import Converted, write_hugging_face, write_ours
from pipeline.folding.stem import StemError, canonical_name
from pipeline.folding.tensor_files import written_whole
from pipeline.folding.weights import WeightsError, hugging_face_config
from pipeline.prediction.loading import Source, load
from pipeline.runs.directory import RunError
from pipeline.runs.initial import MERGED_FILE

FOR_TRANSFORMERS = "stem_transformers"
"""Directory of the stem's adapter in transformers' names."""


class ExportError(ValueError):
    """A run that cannot be written so; the message is one line."""


def without_adapters(model: FoldingModel) -> Converted:
    """The model with its adapters in the weights of what they adapt, and gone. Changes ``model``.

    Raises:
        ExportError: an adapter that is no update of weights.
    """
    try:
        model.merge_adapters()
    except ValueError as error:
        raise ExportError(str(error)) from error
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return Converted(plain_config(model.config), state)


def check_esmfold(config: RunConfig, run: str) -> None:
    """Raise ExportError unless transformers' ``EsmForProteinFolding`` has a place for all that this model computes."""
    try:
        hugging_face_config(config)
    except WeightsError as error:
        raise ExportError(
            f"{run}: {error}: --to hf is for ESMFold's architecture, as of --preset esmfold or of a run that started "
            "from ESMFold's weights; --to merged writes any run"
        ) from None


def plain_config(config: RunConfig) -> RunConfig:
    """The configuration without adapters, and without the model that training started from."""
    return replace(
        config,
        init=InitConfig(),
        stem=replace(config.stem, weights=""),
        adapter=AdapterConfig(method="none"),
        trunk_adapter=TrunkAdapterConfig(),
    )


def export_adapters(model: FoldingModel, out: Path) -> list[Path]:
    """Write every adapter as PEFT's LoRA files, in a directory of its name; returns the directories.

    That of the stem is written once for fair-esm's ESM-2 and once for transformers' ``EsmModel``.

    Raises:
        ExportError: no adapter, or one that is no update of weights.
    """
    adapted = model.adapted()
    if not adapted:
        raise ExportError(f"the run has no adapter (adapter.method = {model.config.adapter.method!r}): use --to merged")
    written = []
    for name, root in adapted.items():
        try:
            written.append(lorta.export_lora(root, out / name))
            if name == "stem":
                base = base_model(model.config.stem)
                written.append(lorta.export_lora(root, out / FOR_TRANSFORMERS, base_model=base, rename=in_transformers))
        except ValueError as error:
            raise ExportError(f"the adapter on {name}: {error}") from error
    return written


def base_model(stem: StemConfig) -> str:
    """Return what PEFT's ``AutoPeft`` classes load before the adapter; empty for weights that are nowhere else."""
    if stem.init == "random":
        return ""
    return stem.weights or f"facebook/{canonical_name(stem.name)}_UR50D"


def in_transformers(path: str) -> str:
    """Return the path in ``EsmModel`` of a linear map of ESM-2. Raises ValueError: it has none."""
    name = esm2_names.to_hugging_face(f"{path}.weight")
    if name is None:
        raise ValueError(f"transformers' EsmModel has no {path}")
    return name.removesuffix(".weight")


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
            f"          DIR/{FOR_TRANSFORMERS} for transformers' EsmModel (PeftModel.from_pretrained takes it), and\n"
            "          DIR/sequence, DIR/triangle for the trunk's attention where it is adapted\n"
            f"  merged  one file, adapters merged, with its configuration: DIR/{MERGED_FILE} and DIR/model.toml\n\n"
            "examples:\n"
            "  python -m pipeline.export --run RUN --to merged --out DIR\n"
            f"  python -m pipeline.predict --run DIR --fasta SEQS.fasta --out PREDS"
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

    def body(arguments: argparse.Namespace) -> int:
        out: Path = arguments.out
        if out.exists():
            raise ExportError(f"--out {out}: is there already, and would be overwritten")
        loaded = load(Source(arguments.run, arguments.checkpoint, arguments.weights, arguments.esm_weights))
        console = make_console()
        if arguments.to == "lora":
            with written_whole(out) as folder:
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
            with written_whole(out) as folder:
                folder.mkdir()
                write_ours(converted, folder / MERGED_FILE)
            console.print(f"Wrote {out / MERGED_FILE} and {out / 'model.toml'}: {loaded.description}", markup=False)
        console.print(f"Next: python -m pipeline.predict --run {out} --fasta SEQS.fasta --out PREDS", markup=False)
        return 0

    return run_command(body, parser().parse_args(argv), usage_errors=(ExportError, RunError, StemError, WeightsError))


if __name__ == "__main__":
    sys.exit(main())
