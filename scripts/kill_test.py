#!/usr/bin/env python
"""Kills commands at random moments (SIGKILL) and looks at what they leave: old files or new ones, whole, and no litter.

    python scripts/kill_test.py --kills 200 --work runs/kills -o kills.csv
    python scripts/kill_test.py --kills 10 --job compile --work runs/kills

Jobs are training, tuning, compiling, bundling, quantising and reporting. A job is forked from a process that has its
imports, so that moments are those of the work. Each first runs to its end, which tells how long it takes; then it is
killed at moments drawn from that time, again and again over the same output. After each kill the output is the old
file or the new one, whole. In the end it runs once more: its output must be as good as ever (a resumed training's bit
by bit that of the one that ran through), nothing else may lie in its folder or in TMPDIR, and none of its processes be
alive. Prints and writes a line for each job; exit code 1 where anything failed. Linux only.
"""

import contextlib
import multiprocessing.process
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import whole_files
from mutate_files import told

import tvm_sched
from subp import cli
from subp.training import checkpoint, trainer
from tvm_sched.records.database import Records
from tvm_sched.records.fastest import BestRecords

COLUMNS = ("job", "kills", "before", "old", "new", "failed", "seconds")


@dataclass(frozen=True)
class Job:
    """A command, and how its output in a folder is looked at."""

    run: Callable[[Path], None]  # writes into the folder, whose parent holds the whole files
    outputs: tuple[str, ...]  # that it may leave there, in the end all
    look: Callable[[Path], None]  # raises where what is there is not whole
    again: Callable[[Path], None] | None = None  # goes on with what is there; else `run`


def whole(folder: Path) -> Path:
    """Where `whole_files.make_whole` has put a file of each kind."""
    return folder.parent / "whole"


def of_command(*words: str) -> Callable[[Path], None]:
    """A command line, WHOLE/ and OUT/ being folders."""

    def run(folder: Path) -> None:
        places = [word.replace("WHOLE", str(whole(folder))).replace("OUT", str(folder)) for word in words]
        if code := cli.exit_code(places):
            raise SystemExit(code)

    return run


def compile_layer(folder: Path) -> None:
    """As `subp compile` does; a network that takes little time."""
    tvm_sched.compile(whole_files.sparse_layer(), whole_files.X, threads=1).save(folder / "net.so")


def tune_layer(folder: Path) -> None:
    """A search of four tiles."""
    options = {"records": folder / "records", "trials": 4, "threads": 1}
    tvm_sched.tune(whole_files.sparse_layer(), whole_files.X, **options)
    of_command("tune", "--merge", "OUT/records", "--best", "OUT/best")(folder)


def training(resume: bool) -> Callable[[Path], None]:
    """Three epochs; resumed, where there is a checkpoint."""
    words = ["train", "WHOLE/images.zip", "-o", "OUT/run", "--model", whole_files.NETWORK, "--epochs", "3"]
    words += ["--batch-size", "2", "--n", "4", "--size", str(whole_files.PIXELS)]
    return of_command(*words, *(["--auto-resume"] if resume else []))


def look_at_records(folder: Path) -> None:
    """Opened as tuning goes on with them, and compiled with where they are all there."""
    if (folder / "records").is_dir():
        Records(folder / "records", whole_files.one_core(), create=True)
    if (folder / "best" / "best.jsonl").exists():
        BestRecords(folder / "best", whole_files.one_core())


def look_at_run(folder: Path) -> None:
    """Both files are read."""
    for name in (trainer.CHECKPOINT, trainer.MODEL):
        if (folder / "run" / name).exists():
            checkpoint.load(folder / "run" / name)


def look_by(*words: str) -> Callable[[Path], None]:
    """Looks by a command that reads the file."""
    return of_command(*words)


JOBS = {
    "train": Job(training(False), ("run",), look_at_run, training(True)),
    "tune": Job(tune_layer, ("records", "best"), look_at_records),
    "compile": Job(compile_layer, ("net.so",), look_by("run", "OUT/net.so", "WHOLE/x.npy", "-o", "OUT/../y.npy")),
    "bundle": Job(
        of_command("bundle", "WHOLE/net.so", "-o", "OUT/net.tar.gz"),
        ("net.tar.gz",),
        lambda folder: _unpacked(folder / "net.tar.gz"),
    ),
    "quantize": Job(
        of_command("quantize", "WHOLE/model.safetensors", "--calibrate", "WHOLE/images.zip", "-o", "OUT/net.pt2"),
        ("net.pt2",),
        look_by("inspect", "OUT/net.pt2"),
    ),
    "report": Job(
        of_command("report", "WHOLE/bench.json", "-o", "OUT/page.html"),
        ("page.html",),
        lambda folder: _ends_in(folder / "page.html", "</html>"),
    ),
}


def _unpacked(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.unpack_archive(path, folder, filter="data")


def _ends_in(path: Path, word: str) -> None:
    assert path.read_text().rstrip().endswith(word)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kills", default=200, show_default=True, type=click.IntRange(1), help="Of all jobs together.")
@click.option("--job", "chosen", multiple=True, type=click.Choice(list(JOBS)), help="These jobs only.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
@click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to work in.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="CSV of a line for each job.")
def command(kills: int, chosen: tuple[str, ...], seed: int, work: Path, output: Path | None) -> None:
    """Kill commands at random moments and look at what they leave."""
    work = work.resolve()
    if forked(whole_files.make_whole, work / "whole").wait():
        sys.exit("the whole files could not be made")
    names = list(chosen or JOBS)
    rows = []
    for place, name in enumerate(names):
        share = kills // len(names) + (place < kills % len(names))
        rows.append(tried(name, JOBS[name], share, random.Random(f"{seed} {name}"), work))
    told(rows, COLUMNS, output)


class Forked:
    """A child in a session of its own."""

    def __init__(self, pid: int):
        self.pid = pid

    def wait(self) -> int:
        """Its exit code."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def killed_after(self, seconds: float) -> bool:
        """Whether it was alive then, and is not any more."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return False
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return True

    def outlived_by(self) -> list[str]:
        """What is alive of its session half a second later."""
        time.sleep(0.5)
        found = []
        for each in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = each.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.pid and fields[0] != "Z":
                    found.append(each.parent.name)
        return found


def forked(work: Callable[[Path], None], folder: Path, log: Path | None = None) -> Forked:
    """A child that does the work, its TMPDIR beside the folder."""
    pid = os.fork()
    if pid:
        return Forked(pid)
    os.setsid()
    multiprocessing.process._children.clear()  # are the parent's: what runs at exit would end them
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder.parent / "tmp")
    os.makedirs(os.environ["TMPDIR"], exist_ok=True)
    quiet = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    code = 1
    try:
        torch.set_num_threads(1)
        work(folder)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def tried(name: str, job: Job, kills: int, draws: random.Random, work: Path) -> dict:
    """Kills the job so often; a row."""
    log, through, folder = work / f"{name}.log", work / f"{name}.through", work / name
    for each in (through, folder):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    started = time.monotonic()
    faults = [] if forked(job.run, through, log).wait() == 0 else ["it does not run at all"]
    taken, counts = time.monotonic() - started, dict.fromkeys(("before", "old", "new"), 0)
    done = 0
    while done < kills and not faults:
        before = content(folder)
        child = forked(job.again or job.run, folder, log)
        if not child.killed_after(draws.uniform(0, 1.1 * taken)):
            if job.again:  # it has come to its end: from the beginning
                shutil.rmtree(folder)
                folder.mkdir()
            continue
        done += 1
        if alive := child.outlived_by():
            faults.append(f"{len(alive)} of its processes outlived it")
        after = content(folder)
        counts["before" if not after else "old" if after == before else "new"] += 1
        if after and all((folder / each).exists() for each in job.outputs) and forked(job.look, folder, log).wait():
            faults.append(f"what kill {done} left is not whole: see {log}")
    if not faults:
        faults += ended(job, folder, through, log)
    for fault in faults:
        print(f"{name}: {fault}", file=sys.stderr)
    return {"job": name, "kills": done, **counts, "failed": len(faults), "seconds": round(taken, 2)}


def ended(job: Job, folder: Path, through: Path, log: Path) -> list[str]:
    """What is wrong when the job has run once more to its end."""
    if forked(job.again or job.run, folder, log).wait():
        return [f"it does not run after the kills: see {log}"]
    faults = [f"what it left in the end is not whole: see {log}"] if forked(job.look, folder, log).wait() else []
    if (left := names(folder)) != (wanted := names(through)):
        faults.append(f"its folder holds {sorted(left ^ wanted)[:5]}, more or less than after a run that ended")
    if left := [each.name for each in (folder.parent / "tmp").iterdir()]:
        faults.append(f"TMPDIR holds {left[:5]}")
    if job is JOBS["train"] and not same_run(folder / "run", through / "run"):
        faults.append("the resumed run is not the one that ran through")
    return faults


def names(folder: Path) -> set[str]:
    """Of all files below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def content(folder: Path) -> dict[str, bytes]:
    """Of the files below that are no temporary ones."""
    paths = [
        path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    ]
    return {str(path): path.read_bytes() for path in paths if not path.name.startswith(".")}


def same_run(some: Path, other: Path) -> bool:
    """Whether two runs ended with the same bits; their speed aside."""
    loaded = [checkpoint.load(each / trainer.CHECKPOINT) for each in (some, other)]
    histories = [
        [{key: value for key, value in row.items() if key != "images_per_s"} for row in each.metadata["history"]]
        for each in loaded
    ]
    first, second = (each.model | each.optimizer for each in loaded)
    return histories[0] == histories[1] and all(torch.equal(first[key], second[key]) for key in first)


if __name__ == "__main__":
    command()
