"""Runs the cases of a suite in worker processes, within limits of time and memory, into a CSV that a later run resumes.

A script of a suite has a list of cases and a function that judges one of them; `options` gives its command `--jobs`,
`--only`, `--retry` and the limits:

    @click.command()
    @coverage_run.options(output="results/timm.csv", seconds=60)
    def command(**chosen):
        coverage_run.run(names(), judged, COLUMNS, coverage_run.Options(**chosen))

A row has the suite's columns: the first names the case, 'verdict' and 'said' are among them. The function that judges,
at top level of its script (or a `functools.partial` of one), takes the case and returns the other columns.

Verdicts: 'right'; 'wrong' (numbers, shapes or dtypes are not PyTorch's); 'refused' (a UserError; `said` is its
sentence); 'traceback' (any other exception); 'crashed' (the process died); 'slow', 'large' (it was ended at a limit).
"""

import contextlib
import csv
import faulthandler
import fnmatch
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import click
import psutil

for _variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS"):  # a case has one core; workers inherit this
    os.environ.setdefault(_variable, "1")

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.2  # how often limits are looked at
WALL_FACTOR = 5  # a case may take so many times its limit of CPU time, or it hangs
MISSED = {"wrong", "traceback", "crashed", "slow", "large"}  # verdicts that no suite may end with

Judge = Callable[[str], dict]


@dataclass(frozen=True)
class Options:
    """What a suite's command line says."""

    output: Path
    jobs: int = 2
    only: tuple[str, ...] = ()  # parts of names, or patterns with * ? [
    retry: tuple[str, ...] = ()  # verdicts
    seconds: float = 60.0  # of CPU time, a case
    gigabytes: float = 6.0  # resident, a worker
    cases_per_worker: int = 50  # then a new one takes over: 1 where the memory of each is to be known


def options(
    output: str, seconds: float, gigabytes: float = 6.0, cases_per_worker: int = 50
) -> Callable[[Callable], Callable]:
    """A decorator that gives a click command the options of `Options`."""
    path = click.Path(dir_okay=False, path_type=Path)
    added = [
        click.option("--output", default=Path(output), show_default=True, type=path, help="The table."),
        click.option("--jobs", default=2, show_default=True, help="Worker processes, each with one thread."),
        click.option("--only", multiple=True, help="Only cases with this in their name, or that match this pattern."),
        click.option("--retry", multiple=True, help="Try cases of this verdict again."),
        click.option("--seconds", default=float(seconds), show_default=True, help="CPU time of a case, at most."),
        click.option("--gigabytes", default=gigabytes, show_default=True, help="Memory of a worker, at most."),
        click.option("--cases-per-worker", default=cases_per_worker, show_default=True, hidden=True),
    ]

    def decorated(command: Callable) -> Callable:
        for option in reversed(added):
            command = option(command)
        return command

    return decorated


def run(cases: Collection[str], judge: Judge, columns: Sequence[str], chosen: Options) -> list[dict]:
    """Judges the cases that have no row yet, or one to be retried, and returns the rows of all that are asked for.

    cases: their names, or a mapping to those columns of each that are known beforehand
    """
    wanted = asked(cases, chosen)
    table = Table(chosen.output, columns)
    waiting = [case for case in wanted if case not in table.rows or table.rows[case]["verdict"] in chosen.retry]
    for done, row in enumerate(judged(waiting, judge, chosen), 1):
        case = row.pop("case")
        known = cases[case] if isinstance(cases, Mapping) else {}
        row = dict.fromkeys(columns, "") | {columns[0]: case} | known | row
        table.add(row)
        said = f": {row['said']}" if row["said"] else ""
        click.echo(f"[{done}/{len(waiting)}] {row[columns[0]]} {row['verdict']}{said}"[:240])
    table.write()
    return [table.rows[case] for case in wanted]


def asked(cases: Collection[str], chosen: Options) -> list[str]:
    """The cases that `--only` names, or all."""
    return [case for case in cases if not chosen.only or any(_matches(case, part) for part in chosen.only)]


def exit_code(rows: Iterable[dict]) -> int:
    """1 where a row's verdict is one of `MISSED`."""
    return int(any(row["verdict"] in MISSED for row in rows))


def summary(rows: Iterable[dict]) -> str:
    """How many rows have each verdict, then what was said of those that are not right, most frequent first."""
    rows = list(rows)
    counts = Counter(row["verdict"] for row in rows)
    lines = [", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())]
    reasons = Counter((row["verdict"], reason(row["said"])) for row in rows if row["verdict"] != "right")
    lines += [f"{count:5} {verdict}: {said}" for (verdict, said), count in reasons.most_common()]
    return "\n".join(lines)


def reason(said: str) -> str:
    """A sentence without what differs from case to case: numbers, what is quoted, and the sample's number before it."""
    said = re.sub(r"^#\d+: ", "", said)
    said = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", said)
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", said)[:160]


def _matches(case: str, part: str) -> bool:
    return part in case or fnmatch.fnmatchcase(case, part)


class Table:
    """A CSV with a row a case, named by the first column. A row is on disk as soon as it is added."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path, self.columns = path, columns
        self.rows: dict[str, dict] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with open(path, newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != list(columns):
                    sys.exit(
                        f"{path} has other columns than {', '.join(columns)}: move it away, or choose another --output"
                    )
                rows = [row for row in reader if None not in row.values()]  # a line that was cut off is none
            self.rows = {row[columns[0]]: row for row in rows}
        self.write()

    def add(self, row: dict) -> None:
        """Replaces the case's row; in the file it follows the old one, until `write`."""
        self.rows[row[self.columns[0]]] = row
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def write(self) -> None:
        """All rows, by name; an existing file is replaced by a whole one."""
        temporary = self.path.with_suffix(".tmp")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows[case] for case in sorted(self.rows))
        temporary.replace(self.path)


def judged(cases: Iterable[str], judge: Judge, chosen: Options) -> Iterable[dict]:
    """What `judge` says of each case, with the case, as they are done. `chosen.jobs` processes take them in turn."""
    waiting = list(reversed(list(cases)))
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.case for worker in workers):
            workers = [worker for worker in workers if not worker.spent]
            while waiting and len(workers) < chosen.jobs:
                workers.append(_Worker(judge, chosen))
            for worker in workers:
                if waiting and not worker.case:
                    worker.give(waiting.pop())
            wait([worker.connection for worker in workers if worker.case], timeout=POLL_S)
            yield from (row for worker in workers if worker.case and (row := worker.row()))
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that judges one case after another, and is ended at a limit."""

    def __init__(self, judge: Judge, chosen: Options):
        self.chosen, self.case, self.left = chosen, None, chosen.cases_per_worker
        file, path = tempfile.mkstemp(prefix="coverage_", suffix=".log")
        os.close(file)
        self.log = Path(path)  # what it prints
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, judge, path), daemon=True)
        self.process.start()
        other.close()
        self.watched = psutil.Process(self.process.pid)

    @property
    def spent(self) -> bool:
        """Whether it takes no further case."""
        if self.case is None and self.left <= 0:
            self.end()
        return self.case is None and not self.process.is_alive()

    def give(self, case: str) -> None:
        """Sends a case to be judged."""
        self.case, self.left = case, self.left - 1
        self.started, self.cpu_before = time.monotonic(), self.cpu_s()
        with contextlib.suppress(BrokenPipeError):  # `row` will tell
            self.connection.send(case)

    def row(self) -> dict | None:
        """The verdict on its case, once there is one."""
        try:
            made = self.connection.recv() if self.connection.poll() else self.beyond_limits()
        except (EOFError, ConnectionResetError):
            self.process.join()
            made = {"verdict": "crashed", "said": f"exit code {self.process.exitcode}, {self.last_words()}"}
        if made is None:
            return None
        case, self.case = self.case, None
        return {"case": case} | made

    def beyond_limits(self) -> dict | None:
        """Ends a process that is beyond a limit, and says beyond which."""
        chosen, wall_s = self.chosen, time.monotonic() - self.started
        try:
            resident = self.watched.memory_info().rss
            cpu_s = self.cpu_s() - self.cpu_before
        except psutil.Error:
            return None  # it has just died; its connection tells
        if resident > chosen.gigabytes * 2**30:
            verdict, said = "large", f"more than {chosen.gigabytes:g} GiB of memory"
        elif cpu_s > chosen.seconds or wall_s > WALL_FACTOR * chosen.seconds:
            verdict, said = "slow", f"more than {chosen.seconds:g} s"
        else:
            return None
        self.end()
        return {"verdict": verdict, "said": said}

    def cpu_s(self) -> float:
        """CPU time so far, of processes it waited for (a linker) too; 0 when it has ended."""
        with contextlib.suppress(psutil.Error):
            return sum(self.watched.cpu_times()[:4])
        return 0.0

    def last_words(self) -> str:
        """Where it was, by Python's fault handler, which tells the innermost frame first; else its last line."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return next((line for line in lines if line.startswith('File "')), (lines or [""])[-1])

    def end(self) -> None:
        """Ends the process: at once where it judges a case, else it is let go."""
        self.connection.close()
        if self.case is None:
            self.process.join(timeout=5)
        self.process.kill()
        self.process.join()
        self.log.unlink(missing_ok=True)


def _work(connection, judge: Judge, log: str) -> None:
    """A worker's life: judges what comes, until its connection closes."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            connection.send(judge(case))
        except Exception as error:  # of any kind: that there is none is what a suite finds out
            connection.send({"verdict": "traceback", "said": one_line(error)})


def one_line(error: BaseException) -> str:
    """An error's kind, the first line of its text, and the innermost place of this project that it passed."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    frames = traceback.extract_tb(error.__traceback__)
    places = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)] or frames
    place = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {text[:240]}{place}"
