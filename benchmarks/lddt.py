"""Speed and memory of ``evaluation.lddt.lddt_ca`` against other formulations, as ratios within one process.

    python benchmarks/lddt.py --out lddt.json
    python benchmarks/lddt.py --files structures/ --out lddt.json      # and whole runs of the evaluator

The rivals get arrays in memory and do the same work: one score over alpha carbons. ``dense`` is AlphaFold's
formulation in NumPy (all N x N distances); ``biotite`` is ``biotite.structure.lddt``, when it is installed. Calls
alternate, so that a busy machine slows all of them alike; the table shows medians.

``lddt_all``, over all heavy atoms, is measured at 3,000 residues, about 24,000 atoms. With ``--files`` every structure
file of a directory is scored against itself, from reading to rows, beside gemmi merely parsing the same files:
processor time of one process.
"""

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.residues import RESTYPE_ATOM37_MASK
from evaluation.all_atom import lddt_all
from evaluation.evaluate import Settings, evaluate
from evaluation.lddt import lddt_ca
from evaluation.targets import Target, structure_files

SIZES = (100, 300, 1000, 3000)


def compact_walk(length: int, generator: np.random.Generator) -> np.ndarray:
    """float64 [N, 3], angstrom, three decimals: steps of 3.8 A within a ball of a protein's density (135 A^3 each)."""
    radius = 2 + (length * 135 * 0.75 / np.pi) ** (1 / 3)
    walk = np.zeros((length, 3))
    for i in range(1, length):
        while True:
            step = generator.normal(size=3)
            walk[i] = walk[i - 1] + 3.8 * step / np.linalg.norm(step)
            if np.linalg.norm(walk[i]) < radius:
                break
    return walk.round(3)


def dense(pred: np.ndarray, true: np.ndarray) -> float:
    """AlphaFold's formulation (Jumper et al. 2021, model/lddt.py), in NumPy."""
    true_distance = np.sqrt(1e-10 + ((true[:, None] - true[None]) ** 2).sum(-1))
    pred_distance = np.sqrt(1e-10 + ((pred[:, None] - pred[None]) ** 2).sum(-1))
    counted = (true_distance < 15.0) * (1.0 - np.eye(len(true)))
    error = np.abs(true_distance - pred_distance)
    score = 0.25 * sum((error < threshold).astype(np.float64) for threshold in (0.5, 1.0, 2.0, 4.0))
    return float((counted * score).sum() / counted.sum())


def rivals(pred: np.ndarray, true: np.ndarray) -> dict[str, Callable[[], float]]:
    """Name -> a call that scores these arrays."""
    calls = {"ours": lambda: lddt_ca(pred, true).score, "dense": lambda: dense(pred, true)}
    try:
        import biotite.structure as structure
    except ImportError:
        return calls
    reference = structure.AtomArray(len(true))
    reference.coord, reference.res_id = true.astype(np.float32), np.arange(1, len(true) + 1)
    reference.atom_name[:], reference.res_name[:], reference.element[:] = "CA", "ALA", "C"
    coordinates = pred.astype(np.float32)
    return calls | {"biotite": lambda: float(structure.lddt(reference, coordinates))}


def measure(length: int, seconds: float, generator: np.random.Generator) -> dict:
    """Medians in milliseconds, ratios to ours, peak memory in MiB, for one size."""
    true = compact_walk(length, generator)
    pred = (true + generator.normal(size=true.shape)).round(3)
    calls = rivals(pred, true)
    scores = {name: call() for name, call in calls.items()}  # warms up, and checks that all do the same work
    if max(scores.values()) - min(scores.values()) > 1e-3:
        raise SystemExit(f"error: the implementations disagree at {length} residues: {scores}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "residues": length,
        "repeats": len(times["ours"]),
        "milliseconds": medians,
        "ratio_to_ours": {name: median / medians["ours"] for name, median in medians.items()},
        "peak_mib": {name: peak_mib(call) for name, call in calls.items()},
    }


def peak_mib(call: Callable[[], float]) -> float:
    """Most memory that Python and NumPy held during one call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def measure_all_atom(length: int, generator: np.random.Generator) -> dict:
    """Seconds and peak memory in MiB of one all-atom score."""
    aatype = generator.integers(0, 20, length)
    mask = RESTYPE_ATOM37_MASK[aatype]
    true = (compact_walk(length, generator)[:, None] + 1.5 * generator.normal(size=(length, 37, 3))).round(3)
    pred = (true + 0.5 * generator.normal(size=true.shape)).round(3)
    arguments = pred, true, mask, mask, aatype, np.zeros(length, dtype=np.int64)
    start = time.perf_counter()
    pairs = lddt_all(*arguments).pairs
    seconds = time.perf_counter() - start
    return {
        "atoms": int(mask.sum()),
        "pairs": pairs,
        "seconds": seconds,
        "peak_mib": peak_mib(lambda: lddt_all(*arguments).score),
    }


def measure_files(directory: Path) -> dict:
    """Processor seconds of whole runs over the files of a directory, each scored against itself."""
    import gemmi

    files = structure_files(directory)
    targets = [Target(path.name, path, path) for path in files]

    def parse() -> None:
        for path in files:
            for _ in range(2):  # the prediction and the truth
                gemmi.read_structure(str(path))

    runs: dict[str, Callable[[], object]] = {
        "gemmi parses": parse,
        "lddt_ca": lambda: list(evaluate(targets, Settings())),
        "with --all-atom": lambda: list(evaluate(targets, Settings(all_atom=True))),
        "with --superposition": lambda: list(evaluate(targets, Settings(superposition=True))),
    }
    seconds = {}
    for name, call in runs.items():
        start = time.process_time()
        call()
        seconds[name] = time.process_time() - start
    return {
        "files": len(files),
        "seconds": seconds,
        "ratio_to_gemmi": {name: value / seconds["gemmi parses"] for name, value in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the numbers here")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="residues (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring per size (default: %(default)s)")
    parser.add_argument("--files", type=Path, metavar="DIR", help="also score each structure file there against itself")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    results = [measure(length, options.seconds, generator) for length in options.sizes]

    table = Table(title="lDDT over alpha carbons: milliseconds (times ours), peak MiB")
    table.add_column("residues", justify="right")
    names = list(results[0]["milliseconds"])
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            f"{result['milliseconds'][name]:.2f} ({result['ratio_to_ours'][name]:.1f}x), {result['peak_mib'][name]:.1f}"
            for name in names
        ]
        table.add_row(str(result["residues"]), *cells)
    Console().print(table)
    if "biotite" not in names:
        print("biotite is not installed: pip install biotite adds it to the table")
    atoms = measure_all_atom(3000, generator)
    cost = f"{atoms['seconds']:.2f} s, {atoms['peak_mib']:.0f} MiB"
    print(f"lddt_all: {atoms['atoms']} atoms, {atoms['pairs']} pairs: {cost}")
    files = None if options.files is None else measure_files(options.files)
    if files is not None:
        print(f"{files['files']} files against themselves, processor seconds (times gemmi's parsing):")
        for name, seconds in files["seconds"].items():
            print(f"  {name}: {seconds:.2f} ({files['ratio_to_gemmi'][name]:.1f}x)")
    if options.out is not None:
        versions = {"python": sys.version.split()[0]} | {
            name: version(name) for name in ("numpy", "lorta-fold", *(["biotite"] if "biotite" in names else []))
        }
        options.out.write_text(
            json.dumps({"versions": versions, "results": results, "all_atom": atoms, "files": files}, indent=2) + "\n"
        )
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
