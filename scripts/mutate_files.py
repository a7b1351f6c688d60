#!/usr/bin/env python
"""Opens thousands of damaged files of every kind that a command reads: each must give a sentence or a right answer.

    python scripts/mutate_files.py --count 20000 --work runs/mutated -o mutated.csv
    python scripts/mutate_files.py --count 200 --format onnx --seed 1 --work runs/onnx

`scripts/read_formats.py` has the kinds, `scripts/mutations.py` what is done to them. A file's number and the seed say
all about it. Files are opened in a process of their own, one at a time, which is replaced when it dies. Failures are
a traceback, a process that dies, more than 10 seconds of CPU or 60 in all, more than 4 GiB, and a sentence of several
lines, too long or with commands to a terminal; their files are kept in WORK/failed. What was done is kept in
WORK/done.jsonl: the same command goes on from there. Prints and writes a line for each kind; exit code 1 where
anything failed.
"""

import contextlib
import csv
import io
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import click
import whole_files
from read_formats import FORMATS, Format

CPU_S, WALL_S, MOST_BYTES = 10.0, 300.0, 4 * 2**30
LONGEST = 2100  # letters of a line
OUTCOMES = {0: "right", 1: "refused by a check", 2: "sentence"}
GOOD = set(OUTCOMES.values())
COLUMNS = ("format", "files", *OUTCOMES.values(), "failed", "slowest_s", "most_mib")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--count", default=20_000, show_default=True, type=click.IntRange(1), help="Files of all kinds together.")
@click.option("--format", "chosen", multiple=True, type=click.Choice(list(FORMATS)), help="These kinds only.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the damage.")
@click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to work in.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="CSV of a line for each kind.")
def command(count: int, chosen: tuple[str, ...], seed: int, work: Path, output: Path | None) -> None:
    """Open damaged files of every kind that a command reads."""
    rows = run(count, list(chosen or FORMATS), seed, work)
    told(rows, COLUMNS, output)


def told(rows: list[dict], columns: Sequence[str], output: Path | None) -> None:
    """Prints and writes the rows, and ends with 1 where anything failed."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print(table.getvalue(), end="")
    if output:
        output.write_text(table.getvalue())
    sys.exit(any(row["failed"] for row in rows))


def run(count: int, names: list[str], seed: int, work: Path) -> list[dict]:
    """Opens `count` files, as many of each kind as its share says; a row for each kind. Goes on where it stopped."""
    done_file = work / "done.jsonl"
    _in_child(whole_files.make_whole, work / "whole")
    done = [json.loads(line) for line in done_file.read_text().splitlines()] if done_file.exists() else []
    known = {(each["format"], each["number"]) for each in done if each["seed"] == seed}
    todo = [each for each in numbered(count, names) if each not in known]
    with open(done_file, "a") as log, contextlib.closing(Worker(work, seed)) as worker:
        for name, number in todo:
            found = worker.opened(name, number)
            done.append(found)
            log.write(json.dumps(found) + "\n")
            log.flush()
            if found["outcome"] not in GOOD:
                print(f"{name} {number}: {found['outcome']}: {found['told']}", file=sys.stderr, flush=True)
    wanted = set(numbered(count, names))
    return [
        row(
            name,
            [
                each
                for each in done
                if each["seed"] == seed and each["format"] == name and (name, each["number"]) in wanted
            ],
        )
        for name in names
    ]


def numbered(count: int, names: list[str]) -> Iterator[tuple[str, int]]:
    """(kind, number) of each file."""
    shares = sum(FORMATS[name].share for name in names)
    for name in names:
        for number in range(math.ceil(count * FORMATS[name].share / shares)):
            yield name, number


def row(name: str, found: list[dict]) -> dict:
    """What came of a kind's files."""
    outcomes = Counter(each["outcome"] for each in found)
    failed = sum(count for outcome, count in outcomes.items() if outcome not in GOOD)
    figures = {
        "slowest_s": max((each["seconds"] for each in found), default=0),
        "most_mib": max((each["mib"] for each in found), default=0),
    }
    return {
        "format": name,
        "files": len(found),
        **{word: outcomes[word] for word in OUTCOMES.values()},
        "failed": failed,
        **figures,
    }


class Worker:
    """The process that opens files, and is replaced when it dies."""

    def __init__(self, work: Path, seed: int):
        self.work, self.seed = work, seed
        self.process: multiprocessing.Process | None = None
        self.pipe: Connection

    def opened(self, name: str, number: int) -> dict:
        """What came of a file."""
        if self.process is None:
            self._start()
        self.pipe.send((name, number))
        started, cpu = time.monotonic(), cpu_seconds(self.process.pid)
        found: dict = {}
        try:
            while not self.pipe.poll(0.5):
                if cpu_seconds(self.process.pid) - cpu > CPU_S or time.monotonic() - started > WALL_S:
                    found = {"outcome": "hang", "told": f"more than {CPU_S:.0f} s"}
                    self.process.kill()
                    break
            found = found or self.pipe.recv()
        except EOFError:
            self.process.join()
            found = {"outcome": "died", "told": f"exit code {self.process.exitcode}"}
        if found["outcome"] in ("hang", "died"):
            self.close()
        if found["outcome"] not in GOOD:
            kept = self.work / "failed" / f"{name.replace(' ', '_')}.{self.seed}.{number}"
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copytree(self.work / "open", kept, dirs_exist_ok=True, symlinks=True)
        wall = round(time.monotonic() - started, 2)
        return {"format": name, "number": number, "seed": self.seed, "seconds": wall, "mib": 0} | found

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")  # with what is imported
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, self.work, self.seed), daemon=True)
        self.process.start()
        other.close()


def serve(pipe: Connection, work: Path, seed: int) -> None:
    """Opens the files that it is asked for, in not much more memory than it has."""
    grown = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (grown + MOST_BYTES, grown + MOST_BYTES))
    while True:
        name, number = pipe.recv()
        pipe.send(verdict(FORMATS[name], name, number, work, seed))


def verdict(kind: Format, name: str, number: int, work: Path, seed: int) -> dict:
    """What opening a damaged file gives: {"outcome", "told", "mib"}, the most memory that the process had."""
    path = damaged(kind, random.Random(f"{seed} {name} {number}"), work)
    told, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(said), warnings.catch_warnings():
        try:
            outcome = OUTCOMES[kind.open(path, number)]
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return {
                "outcome": "traceback",
                "told": f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})",
            }
    wrong = unsightly(told.getvalue(), said.getvalue())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {"outcome": "unsightly" if wrong else outcome, "told": wrong or told.getvalue()[:300], "mib": peak}


def unsightly(told: str, said: str) -> str:
    """The first line of what is told, or said, that should not be shown; '' where there is none."""
    for line in told.removesuffix("\n").split("\n") if told else ():
        if not line.startswith("subp: ") or len(line) > LONGEST:
            return f"on stderr: {line[:200]!r}"
    return next((f"a control character: {line!r}" for line in (told + said).splitlines() if "\x1b" in line), "")


def damaged(kind: Format, rng: random.Random, work: Path) -> Path:
    """The damaged file, in a folder of its own with what must lie beside it."""
    whole, folder = work / "whole", work / "open"
    shutil.rmtree(folder, ignore_errors=True)
    path = folder / kind.file
    path.parent.mkdir(parents=True)
    for name in {"net.so", *kind.beside} - {kind.file}:
        (folder / name).symlink_to((whole / name).resolve())
    if kind.file.startswith("bundle/"):
        shutil.copytree(whole / "bundle", folder / "bundle", symlinks=True, dirs_exist_ok=True, copy_function=os.link)
    path.unlink(missing_ok=True)
    path.write_bytes(kind.mutate((whole / kind.file).read_bytes(), rng))
    return path


def cpu_seconds(process: int | None) -> float:
    """Of CPU that a process has used; 0 of one that has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _in_child(make, folder: Path) -> None:
    """Calls make(folder) in a process of its own, so that this one starts no threads that a fork would lose."""
    if (folder / "net.onnx").exists():  # which is made last
        return
    process = multiprocessing.get_context("fork").Process(target=make, args=(folder,))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("the whole files could not be made")


if __name__ == "__main__":
    command()
