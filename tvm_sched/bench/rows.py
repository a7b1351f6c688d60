"""What a measurement leaves: a row that holds all that it depends on besides the machine, and tables of rows.

How good a time is, is told by two numbers that are the same on any machine, both from the fp32 peak measured in turn
with the networks:

    time_over_d    time / D, D = 2 dense_macs / peak: 1 is a dense network by direct convolution at the machine's peak;
                   zeros skipped and Winograd go below
    share_of_peak  2 kept_macs / time / peak: how well the kernels use the machine; Winograd counts as direct
                   convolution, so may exceed 1
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from tvm_sched.bench.core_state import GOOD

# A compiled file may take its stored weights' bytes times the one, plus the other.
FILE_SHARE, FILE_BYTES = (1.05, 300 * 1024)


@dataclass(frozen=True)
class Row:
    """One measurement. Costs are None where no artifact of the network tells them; times are of single calls."""

    network: str
    engine: str
    target: str
    n: int | None  # block size of the zeros in the weights that the engine was given; None where there are none
    sparsity: float  # fraction of blocks pruned in the pruned layers of those weights
    batch: int
    threads: int
    median_ms: float
    p90_ms: float
    min_ms: float
    # times faster than the fastest dense float32 engine beside it; None where there is none
    ratio_to_best_dense: float | None
    file_bytes: int
    dense_macs: int | None = None  # multiply-adds of all layers, the whole batch
    kept_macs: int | None = None  # those that the engine computes
    peak_gflops: float | None = None  # fp32 peak of as many threads, the best in the same run
    peak_median_gflops: float | None = None
    time_over_d: float | None = None  # median_ms / (2 dense_macs / peak_gflops)
    share_of_peak: float | None = None  # 2 kept_macs / median_ms / peak_gflops
    file_limit_bytes: int | None = None  # goal for file_bytes; None for engines that are not ours
    workspace_bytes: int | None = None  # activations, as planned statically
    weights_bytes: int | None = None  # constants, and what is prepared of them when the network is loaded
    rss_growth_bytes: int | None = (
        None  # what the process grew by at most from before loading to after a call; None where not measured
    )
    goal: float | None = None  # for time_over_d; None where there is none
    precision: str = "float32"
    weights: str = "float32"  # in which layers of ours may store theirs
    ratio_to_best_int8: float | None = None  # likewise, than the fastest in int8
    calls: int | None = None  # that were timed
    core_share: float | None = None  # of its best that the core gave meanwhile, see `core_state`
    steal: float | None = None  # share of the time that the host gave to others; None where it does not say
    ghz: float | None = None  # clock as the system tells it

    @property
    def reached(self) -> bool | None:
        """Whether time_over_d is at most the goal; None without one."""
        return None if self.goal is None or self.time_over_d is None else self.time_over_d <= self.goal

    @property
    def small(self) -> bool | None:
        """Whether the file is within its limit; None without one."""
        return None if self.file_limit_bytes is None else self.file_bytes <= self.file_limit_bytes


def file_limit(stored_bytes: int) -> int:
    """Goal for a compiled file whose stored blocks' weights have so many bytes."""
    return int(FILE_SHARE * stored_bytes) + FILE_BYTES


COLUMNS = {
    "sparsity": lambda row: f"1x{row.n} {row.sparsity:.0%}" if row.n else "-",
    "threads": lambda row: str(row.threads),
    "precision": lambda row: "-" if row.precision == "float32" else row.precision,
    "weights": lambda row: "-" if row.weights == "float32" else row.weights,
    "median ms": lambda row: f"{row.median_ms:.3f}",
    "p90 ms": lambda row: f"{row.p90_ms:.3f}",
    "x best dense": lambda row: number(row.ratio_to_best_dense, ".2f"),
    "x best int8": lambda row: number(row.ratio_to_best_int8, ".2f"),
    "least ms": lambda row: f"{row.min_ms:.3f}",
    "time / D": lambda row: number(row.time_over_d, ".3f") + verdict(row.reached, f" (goal {row.goal})"),
    "of peak": lambda row: number(row.share_of_peak, ".0%"),
    "file MB": lambda row: (
        f"{row.file_bytes / 1e6:.2f}" + verdict(row.small, f" (limit {(row.file_limit_bytes or 0) / 1e6:.2f})")
    ),
    "core": lambda row: number(row.core_share, ".0%"),
    "calls": lambda row: number(row.calls, "d"),
    "memory MB": lambda row: number(row.weights_bytes and (row.workspace_bytes + row.weights_bytes) / 1e6, ".1f"),
}


def table(rows: Sequence[Row]) -> Table:
    """The rows as a table for a terminal."""
    table = Table()
    table.add_column("engine")
    told = {name: [text(row) for row in rows] for name, text in COLUMNS.items()}
    told = {name: texts for name, texts in told.items() if set(texts) != {"-"}}
    for name in told:
        table.add_column(name, justify="right")
    for row, *texts in zip(rows, *told.values(), strict=True):
        table.add_row(row.engine, *texts)
    return table


def condition(row: Row) -> str:
    """What the system tells of the core meanwhile, and a warning where it was not at its best; empty without both."""
    told = [f"{row.steal:.1%} of the time stolen"] if row.steal is not None else []
    told += [f"{row.ghz:.2f} GHz"] if row.ghz is not None else []
    if row.core_share is not None and row.core_share < GOOD:
        told.append(f"NOT AT ITS BEST: the core gave {row.core_share:.0%} of it, so measure again with --until-quiet")
    return ", ".join(told)


def number(value: float | None, form: str) -> str:
    """The value in that format, a dash where there is none."""
    return "-" if value is None else format(value, form)


def verdict(passed: bool | None, limit: str) -> str:
    """The limit and whether it was kept; nothing without one."""
    return "" if passed is None else f"{limit} {'yes' if passed else 'NO'}"
