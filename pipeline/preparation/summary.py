"""What ``pipeline.prepare`` prints: progress, the estimate, what came of a run, what was left out and why."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import ProgressColumn, Task
from rich.table import Table
from rich.text import Text

from data_prep.dataset.build import BuildReport, Estimate
from data_prep.dataset.ledger import LedgerRow, reasons


class RateColumn(ProgressColumn):
    """How many a second since the task began, of which its field ``kept`` were done before."""

    def render(self, task: Task) -> Text:
        """'380/s', and nothing where nothing had to be done."""
        done, seconds = task.completed - task.fields["kept"], task.finished_time or task.elapsed
        return Text(f"{done / seconds:,.0f}/s" if done and seconds else "", style="progress.data.speed")


def print_left_out(console: Console, ledger: Sequence[LedgerRow]) -> None:
    """Why files and chains were left out, with examples; nothing where none was."""
    table = Table("left out", "because", "how many", "for example", title_justify="left")
    for status, reason, count, examples in reasons(ledger, examples=10):
        table.add_row(status, escape(reason), str(count), escape(", ".join(examples)))
    if table.row_count:
        console.print(table)


def print_estimate(console: Console, found: Estimate, jobs: int) -> None:
    """What ``--dry-run`` says."""
    table = Table("estimate", "", show_header=False, title=f"from {found.n_sampled} of {found.n_files} files")
    table.add_row("structure files to read", str(found.n_files))
    table.add_row("other files, not read", str(found.n_left_out))
    table.add_row("unreadable", f"about {found.n_unreadable:.0f}")
    table.add_row("chains accepted", f"about {found.n_chains:.0f}")
    table.add_row(f"reading, {jobs} processes", _duration(found.read_seconds / jobs))
    table.add_row(f"aligning every pair, {jobs} processes", _duration(found.compare_seconds / jobs))
    table.add_row("size of the dataset", f"about {found.n_bytes / 1e6:.1f} MB, twice that while it is made")
    console.print(table)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def print_report(console: Console, out: Path, report: BuildReport) -> None:
    """What came of a run, and what to run next."""
    ledger, placements = report.ledger, report.placements
    accepted = [row for row in ledger if row.status == "accepted"]
    chains = len(accepted) + sum(row.status == "rejected" and bool(row.chain) and bool(row.file) for row in ledger)
    table = Table("", "count", show_header=False)
    table.add_row("files found", str(len({row.file for row in ledger if row.file})))
    table.add_row("structure files read", str(report.n_read))
    table.add_row("chains seen", str(chains))
    table.add_row("chains accepted", str(len(accepted)))
    table.add_row("  with something repaired or mapped", str(sum(bool(row.reason) for row in accepted)))
    names = ("train", "val", "test", "none")
    by_split = {name: [p for p in placements.values() if p.split == name] for name in names}
    for name, members in by_split.items():
        if members or name in ("train", "val"):
            table.add_row(f"  {name}", f"{len(members)} in {len({p.cluster for p in members})} clusters")
    for name in ("val", "test"):
        nearest = [p.nearest_train_identity or 0.0 for p in by_split[name]]
        if nearest:
            table.add_row(f"highest identity of a {name} chain to training", f"{max(nearest):.2f}")
    console.print(table)
    print_left_out(console, ledger)
    if not by_split["val"]:
        console.print("No validation chains: all chains are one cluster, or none were asked for; see --identity.")
    if report.clustering == "mmseqs":
        console.print("Similar chains were found by MMseqs2, which may miss pairs near the level of identity.")
    console.print(f"wrote {out} (every file and chain: {out / 'ledger.csv'})", soft_wrap=True, markup=False)
    console.print(f"look: {out / 'report.html'}", soft_wrap=True, markup=False)
    console.print(f"next: python -m pipeline.train --data {out} --out RUN", soft_wrap=True, markup=False)
