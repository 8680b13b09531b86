"""Which prediction file is scored against which truth.

Names decide: ``preds/x.pdb`` belongs to ``truth/x.cif.gz``. Predictions made from a dataset are named
``<file stem>_<chain>``; where no truth has that whole name, ``x_B`` belongs to chain B of ``truth/x.pdb``. Samples of
other predictors, ``x_model_0.cif`` or ``preds/x/ranked_0.pdb``, belong to ``truth/x.pdb`` (``_SAMPLE``). A truth may
also be a dataset directory of pipeline.prepare, and a table may name the pairs outright.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.files.bounded_reading import read_table
from data_prep.files.errors import UserError
from data_prep.structure.io import is_structure_name, structure_stem

_SAMPLE = re.compile(r"[_.-]((un)?relaxed|model|seed|sample|rank|ranked|pred)([_.-]|\d|$)", re.IGNORECASE)
"""Where the name of a target ends and the sample begins in the names of predictors' files: x_unrelaxed_rank_001_...
(ColabFold), fold_x_model_0 (AlphaFold Server), x_model, x_seed-1_sample-0_model (AlphaFold 3), x_model_0 (Boltz),
x_sample_0 (Protenix), x_model_1_ptm_relaxed (OpenFold), and in a directory x ranked_0 (AlphaFold), pred.model_idx_0
(Chai)."""


@dataclass(frozen=True)
class Target:
    """One row to be: a prediction, the truth that it is meant for, or the lack of either."""

    name: str
    prediction: Path | None
    truth: Path | None
    """A structure file, or a dataset directory when ``record_id`` is given."""
    true_chain: str | None = None
    """Score against this chain of the truth alone."""
    record_id: str | None = None
    """The record of the dataset that is the truth."""
    problem: str = ""
    """Why this target cannot be scored, known from the names alone."""
    no_truth: str = "no truth of this name"
    """Why there is no truth, where there is none."""

    @property
    def truth_name(self) -> str:
        """The truth's path, with the record of a dataset; '' without a truth."""
        if self.truth is None:
            return ""
        return str(self.truth) if self.record_id is None else f"{self.truth}:{self.record_id}"


@dataclass(frozen=True)
class Pairing:
    """All targets, and what a reader should know about how they were found."""

    targets: tuple[Target, ...]
    notes: tuple[str, ...] = ()


def pair(
    preds: Path,
    truth: Path,
    table: Path | None = None,
    split: str | None = None,
    ids: Collection[str] | None = None,
    truth_suffix: str = "",
    pred_suffix: str = "",
) -> Pairing:
    """Finds the targets.

    Args:
        preds: a directory of predictions or one file.
        truth: the same for the truth, or a dataset directory (one with a ``dataset.json``).
        table: CSV with the columns ``pred`` and ``truth``; ``target`` where the predictions' names repeat, and
            ``truth_chain`` to score against one chain of the truth alone, may be there too. A path in it is taken from
            ``preds`` or ``truth`` when it exists there, else from the table's own directory, else from the working
            directory.
        split: with a dataset, the split whose records are all expected; without, only those with a prediction are.
        ids: names of the targets to score, all of them expected; the others are left out.
        truth_suffix: with two directories, what the truths' names have after the predictions': ``x`` belongs to
            ``x<suffix>``. Truths without it are left out.
        pred_suffix: the same for predictions: ``x<suffix>`` belongs to ``x``.

    Raises:
        UserError: paths that do not exist, no structure file, nothing that pairs.
    """
    for path, whose in ((preds, "PREDS"), (truth, "TRUTH")):
        if not path.exists():
            raise UserError(f"{whose}: {path} does not exist: expected a directory or a structure file")
    is_dataset = (truth / "dataset.json").is_file()
    if split is not None and not is_dataset:
        raise UserError(f"--split {split} needs a dataset as TRUTH, and {truth} has no dataset.json")
    if truth_suffix and (is_dataset or table is not None or not truth.is_dir()):
        raise UserError(f"--truth-suffix {truth_suffix} is for the names of two directories: leave it out here")
    if table is not None:
        if is_dataset:
            raise UserError(f"--pairs names truth files, and {truth} is a dataset: give the directory of the files")
        return _only(ids, _pair_by_table(preds, truth, table), {})
    if is_dataset:
        return _pair_with_dataset(preds, truth, split, ids)
    if preds.is_dir() and truth.is_dir():
        truths = _with_suffix(_by_stem(truth, "TRUTH"), truth, truth_suffix)
        return _only(ids, _pair_directories(preds, truth, truths, pred_suffix), truths)
    if ids is not None:
        raise UserError("--ids is for directories, datasets and --pairs: leave it out where files are named")
    if preds.is_file() and truth.is_file():
        return Pairing((Target(structure_stem(preds), preds, truth),))
    one, other = ("a directory", "a file") if preds.is_dir() else ("a file", "a directory")
    raise UserError(
        f"PREDS {preds} is {one} and TRUTH {truth} is {other}: give two directories or two files, or name the pairs "
        "with --pairs FILE.csv"
    )


def structure_files(directory: Path) -> list[Path]:
    """The structure files of a directory, sorted by name; hidden files (macOS leaves ``._x.pdb``) are none."""
    return sorted(path for path in directory.iterdir() if not path.name.startswith(".") and is_structure_name(path))


def read_ids(path: Path) -> list[str]:
    """Names of targets, one per line; empty lines and those that start with # do not count.

    Raises:
        UserError: the file cannot be read, or has no name.
    """
    try:
        lines = [line.strip() for line in read_table(path, encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ids {path}: cannot be read: {error}: expected a text file, one name per line") from None
    names = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not names:
        raise UserError(f"--ids {path}: no name in it: expected one per line")
    return names


def _only(ids: Collection[str] | None, pairing: Pairing, truths: Mapping[str, Sequence[Path]]) -> Pairing:
    """The targets that ``ids`` names, each once; those that nobody predicted are missing or failed."""
    if ids is None:
        return pairing
    found = {target.name: target for target in pairing.targets if target.name in ids}
    for name in ids:
        if name in found:
            continue
        stem, chain = (name, None) if name in truths else _split_chain(name, truths)
        if stem is None:
            found[name] = Target(
                name, None, None, problem="named by --ids, but neither prediction nor truth has this name"
            )
        else:
            found[name] = Target(name, None, truths[stem][0], true_chain=chain, problem=_doubled(truths[stem]))
    note = f"--ids: {len(found)} targets expected, {len(set(_names(pairing)) - found.keys())} others left out"
    return Pairing(tuple(sorted(found.values(), key=lambda target: target.name)), (*pairing.notes, note))


def _names(pairing: Pairing) -> list[str]:
    return [target.name for target in pairing.targets]


def _with_suffix(truths: dict[str, list[Path]], directory: Path, suffix: str) -> dict[str, list[Path]]:
    """The truths whose stem ends in the suffix, by what stands before it."""
    if not suffix:
        return truths
    cut = {stem.removesuffix(suffix): files for stem, files in truths.items() if stem.endswith(suffix)}
    if not cut:
        raise UserError(f"--truth-suffix {suffix}: no name in {directory} ends in it; found {_some(truths)}")
    return cut


def _pair_directories(preds: Path, truth: Path, truths: dict[str, list[Path]], suffix: str) -> Pairing:
    predictions = _by_stem(preds, "PREDS", truths)
    targets, used = [], set()
    whole: list[str] = []
    by_chain: list[str] = []  # predictions that pair by their whole name, and as <stem>_<chain>
    for stem, files in predictions.items():
        name = stem.removesuffix(suffix) if suffix and stem.endswith(suffix) else stem
        in_whole = (name, None) if name in truths else None
        true_stem, chain = in_whole or _without_sample(name, truths) or _split_chain(name, truths)
        if true_stem is None:
            targets.append(Target(stem, files[0], None))
            continue
        used.add(true_stem)
        (whole if chain is None else by_chain).append(stem)
        problem = _doubled(files) or _doubled(truths[true_stem])
        targets.append(Target(stem, files[0], truths[true_stem][0], true_chain=chain, problem=problem))
    if not used:
        raise UserError(_nothing_pairs(preds, predictions, truth, truths))

    unused = [stem for stem in truths if stem not in used]
    notes = []
    unpaired = {target.name for target in targets if target.truth is None}
    swapped = [stem for stem in unused if _split_chain(stem, unpaired)[0] is not None]
    if swapped:
        notes.append(
            f"warning: {len(swapped)} names of TRUTH {truth} pair with a prediction only when PREDS and TRUTH are "
            f"swapped (first: {swapped[0]}): the predictions come first, then the truth"
        )
    if by_chain:
        notes.append(
            f"{len(by_chain)} of {len(predictions)} predictions are named <stem>_<chain> and are scored against that "
            f"chain alone of the truth <stem> (first: {by_chain[0]})"
        )
    if unused and not whole:
        notes.append(
            f"{len(unused)} files of {truth} have no prediction; predictions are named by chain, so these are "
            "taken for files that were not meant to be predicted, and not counted as missing"
        )
    else:
        targets += [Target(stem, None, truths[stem][0], problem=_doubled(truths[stem])) for stem in unused]
    return Pairing(tuple(sorted(targets, key=lambda target: target.name)), tuple(notes))


def _pair_with_dataset(preds: Path, dataset: Path, split: str | None, ids: Collection[str] | None) -> Pairing:
    from data_prep.dataset.store import DatasetError, StructureDataset  # loads file formats that no other truth needs

    try:
        records = StructureDataset(dataset)
        every, expected = set(records.ids()), set() if split is None else set(records.ids(split))
    except DatasetError as error:
        raise UserError(f"TRUTH: {error}") from None
    if split is not None and not expected:
        raise UserError(f"--split {split}: dataset {dataset} has no such split, or it is empty")
    predictions = _by_stem(preds, "PREDS") if preds.is_dir() else {structure_stem(preds): [preds]}
    if ids is not None:
        unknown = sorted(set(ids) - (every if split is None else expected))
        if unknown:
            where = dataset if split is None else f"split {split} of {dataset}"
            raise UserError(f"--ids names {_some(unknown)}, which {where} does not have")
        expected, predictions = set(ids), {stem: files for stem, files in predictions.items() if stem in ids}
    scope = expected if split is not None else every
    elsewhere = f"a record of the dataset, but not of split {split}"
    targets = [
        Target(stem, files[0], dataset, record_id=stem, problem=_doubled(files))
        if stem in scope
        else Target(stem, files[0], None, no_truth=elsewhere if stem in every else Target.no_truth)
        for stem, files in predictions.items()
    ]
    if not scope & predictions.keys() and ids is None:
        raise UserError(
            f"no prediction in {preds} has the name of a record of dataset {dataset}: found {_some(predictions)}, "
            f"expected such as {_some(sorted(scope))}"
        )
    targets += [Target(one, None, dataset, record_id=one) for one in expected - predictions.keys()]
    if ids is not None:
        note = f"expected: the {len(expected)} records of --ids"
    elif split is None:
        note = f"{len(every - predictions.keys())} of its {len(every)} records have no prediction and are not counted "
        note += "as missing: name the split that was predicted with --split to count them"
    else:
        note = f"expected: all {len(expected)} records of split {split}"
    notes = (f"the truth is dataset {dataset}", note)
    return Pairing(tuple(sorted(targets, key=lambda target: target.name)), notes)


def _pair_by_table(preds: Path, truth: Path, table: Path) -> Pairing:
    try:
        reader = csv.DictReader(io.StringIO(read_table(table, encoding="utf-8-sig"), newline=""))
        columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--pairs {table}: cannot be read as CSV: {error}") from None
    absent = [column for column in ("pred", "truth") if column not in columns]
    if absent:
        raise UserError(f"--pairs {table}: no column {' and '.join(absent)}; found {', '.join(columns) or 'nothing'}")
    if not rows:
        raise UserError(f"--pairs {table}: no row below the header")
    targets, line_of = [], dict[str, int]()
    for line, row in enumerate(rows, start=2):
        if not row["pred"] or not row["truth"]:
            raise UserError(f"--pairs {table}: row {line} has an empty pred or truth")
        prediction, true = _find(row["pred"], preds, table), _find(row["truth"], truth, table)
        name = row.get("target") or structure_stem(Path(row["pred"]))
        if name in line_of:
            raise UserError(
                f"--pairs {table}: rows {line_of[name]} and {line} are both target {name}: tell them apart in a column "
                "`target`"
            )
        line_of[name] = line
        absent_file = next((Path(row[c]) for c, path in (("truth", true), ("pred", prediction)) if path is None), None)
        problem = f"row {line} of {table.name} names {absent_file}, which does not exist" if absent_file else ""
        pred_path, true_path = prediction or Path(row["pred"]), true or Path(row["truth"])
        targets.append(Target(name, pred_path, true_path, row.get("truth_chain") or None, problem=problem))
    return Pairing(tuple(targets), (f"pairs from {table}",))


def _find(name: str, base: Path, table: Path) -> Path | None:
    for directory in (base, table.parent, Path()):
        if (directory / name).exists():
            return directory / name
    return None


def _by_stem(directory: Path, whose: str, targets: Collection[str] = ()) -> dict[str, list[Path]]:
    """Structure files by their names; those in a directory named as one of the ``targets`` are called by both names."""
    stems: dict[str, list[Path]] = defaultdict(list)
    for path in structure_files(directory):
        stems[structure_stem(path)].append(path)
    for folder in sorted(path for path in directory.iterdir() if path.is_dir() and path.name in targets):
        for path in sorted(path for path in folder.rglob("*") if is_structure_name(path) and path.is_file()):
            if not path.name.startswith("."):
                parts = path.parent.relative_to(directory).parts
                stems["_".join([*parts, structure_stem(path)])].append(path)
    listed = _listed(directory) if any(len(files) > 1 for files in stems.values()) else set()
    for stem, files in stems.items():
        stems[stem] = [path for path in files if path.name in listed] or files
    if not stems:
        expected = "expected names that end in .pdb, .ent, .cif, .mmcif or .bcif, plain or .gz"
        if (directory / "dataset.json").is_file():
            expected = "it is a dataset, which can be the truth. The predictions come first, then the truth"
        raise UserError(f"{whose}: no structure files in {directory}: {expected}")
    return dict(stems)


def _listed(directory: Path) -> set[str]:
    """Files that the tables of ``pipeline.predict`` name: of a prediction as PDB and mmCIF, the one to take.

    Relaxed structures lie in a directory below that of the table, under the same names.
    """
    names: set[str] = set()
    pattern = "predictions*.csv"  # with --shard, predictions.I-of-N.csv
    for table in (*directory.glob(pattern), *directory.resolve().parent.glob(pattern)):
        try:
            text = io.StringIO(read_table(table, encoding="utf-8-sig"), newline="")
            names |= {row.get("file") or "" for row in csv.DictReader(text)}
        except (OSError, UnicodeDecodeError, csv.Error):
            continue
    return names


def _without_sample(stem: str, truths: Iterable[str]) -> tuple[str | None, str | None] | None:
    """``x_model_0`` or ``fold_x_model_0`` -> (x, None), ``x_B_model_0`` -> (x, B), where x is a truth."""
    ends = [match.start() for match in _SAMPLE.finditer(stem)]
    names = [stem[:end].removeprefix(prefix) for end in ends for prefix in ("", "fold_")]
    whole = [(name, None) for name in names if name in truths]
    by_chain = [found for name in names if (found := _split_chain(name, truths))[0] is not None]
    return (*whole[::-1], *by_chain, None)[0]


def _split_chain(stem: str, truths: Iterable[str]) -> tuple[str | None, str | None]:
    """``x_B`` -> (x, B) where x is a truth; the longest such x."""
    for cut in range(len(stem) - 1, 0, -1):
        if stem[cut] == "_" and stem[:cut] in truths:
            return stem[:cut], stem[cut + 1 :]
    return None, None


def _doubled(files: Sequence[Path]) -> str:
    if len(files) == 1:
        return ""
    return f"{' and '.join(path.name for path in files)} share a stem: keep one, or name the pairs with --pairs"


def _nothing_pairs(preds: Path, predictions: Iterable[str], truth: Path, truths: Iterable[str]) -> str:
    line = f"no name in PREDS {preds} ({_some(predictions)}) is one in TRUTH {truth} ({_some(truths)})"
    some = list(predictions)[:20]
    suffixes = {stem.removeprefix(other) for stem in truths for other in some if stem.startswith(other)}
    if len(suffixes) == 1 and len(suffix := suffixes.pop()) > len("_A"):  # longer than a chain
        return line + f": if prediction x belongs to truth x{suffix}, say --truth-suffix {suffix}"
    if any(_split_chain(stem, predictions)[0] is not None for stem in truths):
        return line + ": they pair when swapped. The predictions come first, then the truth"
    return line + ": rename, or name the pairs with --pairs FILE.csv"


def _some(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f", ... {len(names)} in all" if len(names) > count else "")
