"""Prediction against transformers' port of ESMFold, same weights, in one process: speed, memory, start-up.

    python -m benchmarks.predict                                     # 64 to 256 residues, two blocks
    python -m benchmarks.predict --lengths 64 128 256 512 --blocks 1 --batch 2 --rounds 2    # 6 minutes of one core

The model has ESMFold's widths (c_s 1024, c_z 128, 8 iterations of the structure module) over a small untrained stem,
with --blocks blocks and random weights. Both take turns, and wall time per sequence is the median over rounds; CPU time
is beside it, since other work on the machine falls on wall time. In every round the structures of both must agree; a
short sequence goes before, so that what the libraries do once is not timed. Memory is the highest resident size of a
process of its own for each length, less that before the fold. Start-up is the wall time of ``python -m
pipeline.predict`` on one sequence of 64 residues, from its start to the row on disk.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.peak import Peak
from data_prep.structure.residues import RESTYPES, sequence_to_aatype
from pipeline.config.layers import preset_layer, resolve
from pipeline.folding.model import FoldingModel, build_model
from pipeline.folding.model_files import Converted, write_ours
from pipeline.folding.weights import hugging_face_config, to_hugging_face
from pipeline.prediction.fold import fold_batch
from pipeline.prediction.sequences import single_chain

CPU = torch.device("cpu")


def make_model(blocks: int) -> FoldingModel:
    """ESMFold's widths, random weights away from their zeros."""
    layers = {"stem": {"name": "esm2_t3_demo", "init": "random"}, "adapter": {"method": "none"}}
    config = resolve(preset_layer("esmfold"), layers, {"trunk": {"blocks": blocks, "checkpoint_blocks": False}})
    model = build_model(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return model


def make_port(model: FoldingModel):
    from transformers import EsmConfig, EsmForProteinFolding

    port = EsmForProteinFolding(EsmConfig(**hugging_face_config(model.config))).eval()
    missing, unexpected = port.load_state_dict(to_hugging_face(model.state_dict()), strict=False)
    assert not unexpected and all("inv_freq" in name or name.startswith(("lm_head", "esm.contact")) for name in missing)
    return port


def sequences(batch: int, length: int) -> list[str]:
    rng = np.random.default_rng(length)
    return ["".join(rng.choice(list(RESTYPES), length)) for _ in range(batch)]


def ours(model: FoldingModel, batch: list[str], recycles: int) -> np.ndarray:
    queries = [single_chain(f"s{i}", text) for i, text in enumerate(batch)]
    return np.stack([prediction.atom14 for prediction in fold_batch(model, queries, CPU, recycles)])


@torch.no_grad()
def theirs(port, batch: list[str], recycles: int) -> np.ndarray:
    aatype = torch.from_numpy(np.stack([sequence_to_aatype(text) for text in batch]))
    return port(aatype, attention_mask=torch.ones_like(aatype), num_recycles=recycles)["positions"][-1].numpy()


def timed(call) -> tuple[float, float, np.ndarray]:
    """Wall seconds, CPU seconds, and what came of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compare(model: FoldingModel, port, length: int, batch: int, rounds: int, recycles: int) -> dict:
    texts = sequences(batch, length)
    found = [
        (timed(lambda: ours(model, texts, recycles)), timed(lambda: theirs(port, texts, recycles)))
        for _ in range(rounds)
    ]
    difference = max(float(np.abs(a[2][:, :, :4] - b[2][:, :, :4]).max()) for a, b in found)
    assert difference < 0.05, f"structures differ by {difference} angstrom"
    wall_ours, wall_port = (statistics.median(pair[i][0] for pair in found) for i in (0, 1))
    return {
        "length": length,
        "batch": batch,
        "ours_sequences_per_s": round(batch / wall_ours, 4),
        "port_sequences_per_s": round(batch / wall_port, 4),
        "speedup_wall": round(statistics.median(b[0] / a[0] for a, b in found), 2),
        "speedup_cpu": round(statistics.median(b[1] / a[1] for a, b in found), 2),
        "largest_difference_angstrom": round(difference, 5),
    }


def peak(which: str, length: int, blocks: int, recycles: int) -> int:
    """Megabytes that one fold takes in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.predict", "--peak", which, "--lengths", str(length)]
    done = subprocess.run(
        [*words, "--blocks", str(blocks), "--recycles", str(recycles)], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def measure_peak(which: str, length: int, blocks: int, recycles: int) -> None:
    model = make_model(blocks)
    folder = model if which == "ours" else make_port(model)
    if which == "port":
        del model
    call = ours if which == "ours" else theirs
    call(folder, sequences(1, 16), recycles)  # what the libraries take once
    meter = Peak(CPU)
    before = meter.now()
    meter.reset()
    call(folder, sequences(1, length), recycles)
    print((meter.read() - before) >> 20)


def start_up(model: FoldingModel) -> float:
    """Seconds from the start of the command to the first structure in the table."""
    with tempfile.TemporaryDirectory() as folder:
        weights, fasta, out = Path(folder, "m.safetensors"), Path(folder, "s.fasta"), Path(folder, "out")
        write_ours(Converted(model.config, model.state_dict()), weights)
        fasta.write_text(f">s\n{sequences(1, 64)[0]}\n")
        started = time.perf_counter()
        words = ["--run", weights, "--fasta", fasta, "--out", out, "--device", "cpu", "--recycles", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.predict", *map(str, words)], stdout=subprocess.DEVNULL
        )
        table = out / "predictions.csv"
        while not (table.is_file() and table.read_bytes().count(b"\n") > 1):
            assert process.poll() is None, "the command ended without a structure"
            time.sleep(0.01)
        passed = time.perf_counter() - started
        process.wait()
        return round(passed, 2)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256])
    p.add_argument("--batch", type=int, default=4, help="of the batched rows, up to 256 residues")
    p.add_argument("--blocks", type=int, default=2)
    p.add_argument("--recycles", type=int, default=0)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--out", type=Path, help="JSON")
    p.add_argument("--peak", choices=["ours", "port"], help=argparse.SUPPRESS)
    arguments = p.parse_args()
    blocks, recycles = arguments.blocks, arguments.recycles
    if arguments.peak:
        measure_peak(arguments.peak, arguments.lengths[0], blocks, recycles)
        return
    model = make_model(blocks)
    port = make_port(model)
    rows = []
    compare(model, port, 16, 1, 1, recycles)
    for length in arguments.lengths:
        for batch in dict.fromkeys((1, arguments.batch) if length <= 256 else (1,)):
            rows.append(compare(model, port, length, batch, arguments.rounds, recycles))
            print(rows[-1], flush=True)
    del port
    memory = []
    for length in arguments.lengths:
        memory.append({"length": length, **{f"{w}_MB": peak(w, length, blocks, recycles) for w in ("ours", "port")}})
        print(memory[-1], flush=True)
    started = start_up(model)
    print(f"first structure after {started} s")
    result = {
        "command": " ".join(["python -m benchmarks.predict", *sys.argv[1:]]),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "torch": torch.__version__,
        "blocks": blocks,
        "recycles": recycles,
        "speed": rows,
        "memory": memory,
        "start_up_s": started,
    }
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"Wrote {arguments.out}")


if __name__ == "__main__":
    main()
