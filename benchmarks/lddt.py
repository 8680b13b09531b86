"""Speed and memory of ``evaluation.lddt`` against other programs, as ratios within one process.

    python benchmarks/lddt.py --out lddt.json
    python benchmarks/lddt.py --preds preds/ --truth truth/ --pairs pairs.csv     # and whole runs of the evaluator

The rivals get arrays in memory and do the same work: one score over alpha carbons. ``dense`` is AlphaFold's
formulation in NumPy (all N x N distances); ``biotite`` is ``biotite.structure.lddt`` (pip install -e ".[bench]").
``openstructure`` is the program ``lddt -c`` of the Debian package openstructure, where it is installed: it reads two
files of alpha carbons, and its time includes its start. Calls alternate, and processor time is measured, so that other
work on the machine disturbs little; the table shows medians. ``lddt_all``, over all heavy atoms, is measured at 3,000
residues, about 24,000 atoms.

With ``--preds`` and ``--truth`` all pairs are scored as the command does it, from reading to rows, beside gemmi merely
parsing the same files: 16 pairs at a time alternate in one process, and of each such group the least processor
time of several rounds counts, since other work on the machine only ever adds to it. Ratios are to the parsing of both
files of every pair. The evaluator reads a truth that several predictions of a group share only once, so parsing each
file of a group once is measured too.
"""

import argparse
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.structure.residues import RESTYPE_ATOM37_MASK
from evaluation.lddt_scores import lddt_all, lddt_ca
from evaluation.run import Settings, evaluate
from evaluation.targets import pair

SIZES = (100, 300, 1000, 3000)
GROUP = 16  # pairs of files that are scored, then parsed, at a time
COMPOUNDS = "/var/cache/openstructure/compounds.chemlib"  # where the Debian package keeps what its program must load


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


def openstructure(pred: np.ndarray, true: np.ndarray, directory: Path) -> dict[str, Callable[[], float]]:
    """The call of OpenStructure's program on files of these alpha carbons; nothing where it is not installed."""
    program = shutil.which("lddt")
    if program is None:
        return {}
    for name, positions in (("pred", pred), ("true", true)):
        lines = [
            f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C  \n"
            for i, (x, y, z) in enumerate(positions.tolist(), start=1)
        ]
        (directory / f"{name}.pdb").write_text("".join(lines) + "END\n")
    command = [program, "-c", "-x", "-l", COMPOUNDS, str(directory / "pred.pdb"), str(directory / "true.pdb")]

    def call() -> float:
        done = subprocess.run(command, capture_output=True, text=True)
        found = re.search(r"Global LDDT score: ([0-9.]+)", done.stdout)
        if found is None:
            raise SystemExit(f"error: {' '.join(command)}: exit {done.returncode}, no score: {done.stderr.strip()}")
        return float(found[1])

    return {"openstructure": call}


def measure(length: int, seconds: float, generator: np.random.Generator) -> dict:
    """Medians in milliseconds, ratios to ours, peak memory in MiB, for one size."""
    with tempfile.TemporaryDirectory() as directory:
        return _measure(length, seconds, generator, Path(directory))


def _measure(length: int, seconds: float, generator: np.random.Generator, directory: Path) -> dict:
    true = compact_walk(length, generator)
    pred = (true + generator.normal(size=true.shape)).round(3)
    calls = rivals(pred, true) | openstructure(pred, true, directory)
    scores = {name: call() for name, call in calls.items()}  # warms up, and checks that all do the same work
    if max(scores.values()) - min(scores.values()) > 1e-3:
        raise SystemExit(f"error: the implementations disagree at {length} residues: {scores}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, call in calls.items():
            start = processor_seconds()
            call()
            times[name].append(1000 * (processor_seconds() - start))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "residues": length,
        "repeats": len(times["ours"]),
        "milliseconds": medians,
        "ratio_to_ours": {name: median / medians["ours"] for name, median in medians.items()},
        "peak_mib": {name: peak_mib(call) for name, call in calls.items() if name != "openstructure"},
    }


def processor_seconds() -> float:
    """Of this process and of the programs that it has started: other work on the machine does not count."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_mib(call: Callable[[], float]) -> float:
    """Most memory that Python and NumPy held during one call, in a thread of its own: memory that ``lddt_ca`` keeps
    from call to call is counted too."""
    tracemalloc.start()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call).result()
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


def measure_pairs(preds: Path, truth: Path, table: Path | None, rounds: int) -> dict:
    """Processor seconds of whole runs over pairs of files, and of gemmi's parsing of them."""
    import gemmi

    targets = [target for target in pair(preds, truth, table).targets if target.prediction and target.truth]
    groups = [targets[start : start + GROUP] for start in range(0, len(targets), GROUP)]

    def parse(paths) -> None:
        for path in paths:
            gemmi.read_structure(str(path))

    def files(group) -> list[Path]:
        return [path for target in group for path in (target.prediction, target.truth)]

    calls: dict[str, Callable] = {
        "gemmi parses": lambda group: parse(files(group)),
        "gemmi, each file once": lambda group: parse(set(files(group))),
        "lddt_ca": lambda group: list(evaluate(group, Settings())),
        "with --all-atom": lambda group: list(evaluate(group, Settings(all_atom=True))),
        "with --superposition": lambda group: list(evaluate(group, Settings(superposition=True))),
    }
    least = {name: np.full(len(groups), np.inf) for name in calls}
    for _ in range(rounds):
        for i, group in enumerate(groups):
            for name, call in calls.items():
                start = time.process_time()
                call(group)
                least[name][i] = min(least[name][i], time.process_time() - start)
    seconds = {name: float(values.sum()) for name, values in least.items()}
    return {
        "pairs": len(targets),
        "rounds": rounds,
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
    parser.add_argument("--preds", type=Path, metavar="DIR", help="also score whole files: predictions")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="their truths")
    parser.add_argument("--pairs", type=Path, metavar="FILE.csv", help="which belong together, as of evaluation.lddt")
    parser.add_argument("--rounds", type=int, default=5, help="over the whole files (default: %(default)s)")
    options = parser.parse_args()
    if (options.preds is None) != (options.truth is None):
        parser.error("--preds and --truth go together")
    generator = np.random.default_rng(0)
    results = [measure(length, options.seconds, generator) for length in options.sizes]

    table = Table(title="lDDT over alpha carbons: milliseconds of processor time (times ours), peak MiB")
    table.add_column("residues", justify="right")
    names = list(results[0]["milliseconds"])
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        cells = [
            f"{result['milliseconds'][name]:.2f} ({result['ratio_to_ours'][name]:.1f}x)"
            + (f", {result['peak_mib'][name]:.1f}" if name in result["peak_mib"] else "")
            for name in names
        ]
        table.add_row(str(result["residues"]), *cells)
    Console().print(table)
    for name, how in (("biotite", 'pip install -e ".[bench]"'), ("openstructure", "apt-get install openstructure")):
        if name not in names:
            print(f"{name} is not installed: {how} adds it to the table")
    atoms = measure_all_atom(3000, generator)
    cost = f"{atoms['seconds']:.2f} s, {atoms['peak_mib']:.0f} MiB"
    print(f"lddt_all: {atoms['atoms']} atoms, {atoms['pairs']} pairs: {cost}")
    pairs = None
    if options.preds is not None:
        pairs = measure_pairs(options.preds, options.truth, options.pairs, options.rounds)
        print(f"{pairs['pairs']} pairs of files, processor seconds (times gemmi's parsing):")
        for name, seconds in pairs["seconds"].items():
            print(f"  {name}: {seconds:.2f} ({pairs['ratio_to_gemmi'][name]:.1f}x)")
    if options.out is not None:
        versions = {"python": sys.version.split()[0]} | {
            name: version(name) for name in ("numpy", "lorta-fold", *(["biotite"] if "biotite" in names else []))
        }
        options.out.write_text(
            json.dumps({"versions": versions, "results": results, "all_atom": atoms, "pairs": pairs}, indent=2) + "\n"
        )
        print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
