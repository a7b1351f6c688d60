#!/usr/bin/env python
"""Runs commands where nothing can be written, and looks at what they say and leave: one sentence, old files, no litter.

    python scripts/fault_test.py --work runs/faults -o faults.csv
    python scripts/fault_test.py --job compile --place "full output" --tries 20 --work runs/faults

Places are full disks, on which each try leaves room for a part, drawn at random, of what the command writes (the
output's folder, TMPDIR, the user's cache, all of them), and folders that are mounted read-only. Each job first runs
where there is room; then in each place, by turns over no output and over that of the earlier run. A command may
succeed, if its output is whole then. Else it must end with exit code 2 and a sentence on stderr, the old output be what
it was, and nothing else lie in any of the folders. Disks are mounted in a namespace that only the job sees: Linux, as
root or where users may have such. Prints and writes a line for each job and place; exit code 1 where anything failed.
"""

import atexit
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import click
import numpy as np
import whole_files
from kill_test import JOBS, Job, forked, names, of_command
from mutate_files import told

from subp import cli

COLUMNS = ("job", "place", "tries", "done", "refused", "failed")
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # Linux's <sched.h>
DISK = 2**26  # bytes of a disk
MOST_TEMPORARY = 2**22  # bytes of room where it is not known how many a job needs
LONGEST = 2100  # letters of a line
HANGS_S = 180
FILLER = ".filler"
OUTPUT, TEMPORARY, CACHE = "output", "tmp", "cache"  # folders; `kill_test.forked` knows the second by its name
PLACES = {
    "full output": (OUTPUT,),
    "full TMPDIR": (TEMPORARY,),
    "full cache": (CACHE,),
    "all full": (OUTPUT, TEMPORARY, CACHE),
    "read-only output": (OUTPUT,),
    "read-only TMPDIR": (TEMPORARY,),
    "read-only cache": (CACHE,),
}


def guarded(work: Callable[[Path], None]) -> Callable[[Path], None]:
    """What calls the library, as a command does."""

    def run(folder: Path) -> None:
        if code := cli.guarded(lambda: work(folder)):
            raise SystemExit(code)

    return run


def look_at_array(folder: Path) -> None:
    """What `subp run` has written."""
    assert np.load(folder / "y.npy").shape == (1, 16, 4, 4)


def look_at_json(folder: Path) -> None:
    """What `subp evaluate` has written."""
    json.loads((folder / "accuracy.json").read_bytes())


TRAIN = ("train", "WHOLE/images.zip", "-o", "OUT/run", "--model", whole_files.NETWORK, "--epochs", "2", "--n", "4")
SPARSELY = (*TRAIN, "--size", str(whole_files.PIXELS), "--batch-size", "2", "--sparse-compute", "kernels")
EVALUATE = ("evaluate", "WHOLE/model.safetensors", "WHOLE/images.zip", "--json", "OUT/accuracy.json")
TRIED = {
    **{name: replace(job, run=guarded(job.run), again=None) for name, job in JOBS.items()},
    "train sparsely": Job(of_command(*SPARSELY), ("run",), JOBS["train"].look),
    "run": Job(of_command("run", "WHOLE/net.so", "WHOLE/x.npy", "-o", "OUT/y.npy"), ("y.npy",), look_at_array),
    "evaluate": Job(of_command(*EVALUATE), ("accuracy.json",), look_at_json),
}
IN_STEPS = ("train", "train sparsely", "tune")  # may leave what they had when it went wrong, each file whole
NEVER_OVER = ("train", "train sparsely")  # an earlier run


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tries", default=4, show_default=True, type=click.IntRange(1), help="Of a job in a place.")
@click.option("--job", "jobs", multiple=True, type=click.Choice(list(TRIED)), help="These jobs only.")
@click.option("--place", "places", multiple=True, type=click.Choice(list(PLACES)), help="These places only.")
@click.option("--seed", default=0, show_default=True, help="Of the room that is left.")
@click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to work in.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="CSV of a line for each.")
def command(
    tries: int, jobs: tuple[str, ...], places: tuple[str, ...], seed: int, work: Path, output: Path | None
) -> None:
    """Run commands where nothing can be written, and look at what they say and leave."""
    work = work.resolve()
    if not may_mount(work):
        sys.exit("no disk can be mounted here: run as root, or where users may have namespaces (unshare -Urm true)")
    if forked(whole_files.make_whole, work / "whole").wait():
        sys.exit("the whole files could not be made")
    shutil.rmtree(work / TEMPORARY)
    rows = []
    for name in jobs or TRIED:
        rows += tried(name, TRIED[name], places or tuple(PLACES), tries, random.Random(f"{seed} {name}"), work)
    told(rows, COLUMNS, output)


def may_mount(work: Path) -> bool:
    """Whether a process may have a disk of its own."""
    (work / TEMPORARY).mkdir(parents=True, exist_ok=True)
    return forked(lambda folder: mount(folder / TEMPORARY), work).wait() == 0


def tried(name: str, job: Job, places: tuple[str, ...], tries: int, draws: random.Random, work: Path) -> list[dict]:
    """The job, so often in each place; a row for each."""
    old = work / f"{name}.old".replace(" ", "_")
    for each in (old, work / CACHE):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    run = with_cache(job.run)
    if forked(run, old, work / "said").wait():
        return [{"job": name, "place": place, "failed": "it does not run at all"} for place in places]
    shutil.rmtree(work / CACHE)
    rows = []
    for place in places:
        outcomes: Counter = Counter()
        for number in range(tries):
            over = name not in NEVER_OVER and number % 2 == 1
            room = None if place.startswith("read-only") else draws.random()
            for each in (OUTPUT, TEMPORARY, CACHE):
                shutil.rmtree(work / each, ignore_errors=True)
                (work / each).mkdir()
            one = Try(name, replace(job, run=run), place, room, old, over)
            outcomes[one.result(work)] += 1
        counts = {word: outcomes[word] for word in ("done", "refused", "failed")}
        rows.append({"job": name, "place": place, "tries": tries, **counts})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def with_cache(work: Callable[[Path], None]) -> Callable[[Path], None]:
    """In a process that writes its sentences alone, has its cache beside the folder, and ends some time."""

    def run(folder: Path) -> None:
        signal.alarm(HANGS_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 (for good)
        os.environ["XDG_CACHE_HOME"] = str(folder.parent / CACHE)
        os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(folder.parent / "zig")  # minutes to fill, and no file of ours
        try:
            work(folder)
        finally:
            atexit._run_exitfuncs()  # as when a command ends

    return run


class Try:
    """A job in a place, once."""

    def __init__(self, name: str, job: Job, place: str, room: float | None, old: Path, over: bool):
        self.name, self.job, self.place, self.old, self.over = name, job, place, old, over
        self.room = room  # left on the disk, as a part of what the job writes; None of a read-only one

    def result(self, work: Path) -> str:
        """'done', 'refused' or 'failed', whose faults are printed."""
        said = work / "said"
        said.unlink(missing_ok=True)
        code = forked(self.run, work / OUTPUT, said).wait()
        words = said.read_text() if said.exists() else ""
        if code in (0, 2):
            return "refused" if code else "done"
        over = "over an old output" if self.over else "over no output"
        room = "" if self.room is None else f", room {self.room:.3f}"
        print(f"{self.name}, {self.place}, {over}{room}: {words[-1500:] or code}", file=sys.stderr, flush=True)
        return "failed"

    def run(self, folder: Path) -> None:
        """Of a process that alone sees the disks. Ends with 0 or 2, as the job; raises where anything is wrong."""
        if self.over:
            shutil.copytree(self.old, folder, dirs_exist_ok=True)
        for each in PLACES[self.place]:
            self.limit(folder.parent / each)
        before, said = content(folder), folder.parent / "job.said"
        said.unlink(missing_ok=True)
        code = forked(self.job.run, folder, said).wait()
        self.free(folder.parent)
        faults = [*self.words_faults(code, said.read_text()), *self.files_faults(code, folder, before)]
        assert not faults, "; ".join(faults)
        raise SystemExit(code)

    def limit(self, folder: Path) -> None:
        """Makes the folder a disk that is full but for the room, or read-only."""
        if self.room is None:
            mount(folder, "--bind", str(folder))
            mount(folder, "-o", "remount,bind,ro")
            return
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
        mount(folder)
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        shutil.rmtree(kept)
        needed = sum(path.stat().st_size for path in self.old.rglob("*") if path.is_file())
        room = int(self.room * 1.2 * (needed if folder.name == OUTPUT else MOST_TEMPORARY * self.room))
        free = os.statvfs(folder)
        with open(folder / FILLER, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - room))

    def free(self, work: Path) -> None:
        """Makes it again what it was, with room to look at what is there."""
        for each in PLACES[self.place]:
            if self.room is None:
                subprocess.run(["umount", str(work / each)], check=True, capture_output=True)
            else:
                (work / each / FILLER).unlink()

    def words_faults(self, code: int, words: str) -> list[str]:
        """What is wrong with how it ended."""
        lines = words.removesuffix("\n").split("\n") if words else []
        faults = [] if code in (0, 2) else [f"exit code {code}, {words[-1000:]!r}"]
        faults += [f"on stderr: {each!r}" for each in lines if not each.startswith("subp: ") or len(each) > LONGEST]
        told = [each for each in lines if not each.startswith("subp: warning")]
        return faults + ([f"{len(told)} sentences: {told}"] if len(told) != bool(code) else [])

    def files_faults(self, code: int, folder: Path, before: dict[str, bytes]) -> list[str]:
        """What is wrong with what it left."""
        after, wanted = content(folder), names(self.old)
        faults = [] if after.keys() <= wanted else [f"the output's folder holds {sorted(after.keys() - wanted)[:5]}"]
        if code == 0 and (missing := wanted - after.keys()):
            faults.append(f"it says nothing and {sorted(missing)[:5]} is missing")
        if code and self.name not in IN_STEPS and after != before:
            faults.append("the old output is another")
        if all((folder / each).exists() for each in self.job.outputs):
            log = folder.parent / "looked"
            if forked(self.job.look, folder, log).wait():
                faults.append(f"what is there is not whole: {log.read_text()[-500:]}")
        left = [each for each in names(folder.parent / TEMPORARY) if each != FILLER]
        left += [each for each in names(folder.parent / CACHE) if ".tmp" in each]
        return faults + ([f"TMPDIR or cache holds {left[:5]}"] if left else [])


def content(folder: Path) -> dict[str, bytes]:
    """Of all files below but the filler."""
    return {each: (folder / each).read_bytes() for each in names(folder) if each != FILLER}


def mount(folder: Path, *how: str) -> None:
    """Mounts on the folder, for this process and its children alone; a new disk if not told otherwise. Raises OSError
    or CalledProcessError where it may not.
    """
    _alone(os.getpid())
    words = [*how, str(folder)] if how else ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    subprocess.run(["mount", *words], check=True, capture_output=True)


@cache
def _alone(process: int) -> None:
    """Gives the process, which is this one, mounts of its own: once, though a forked one has its parent's cache."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS | (NEW_USERS if user else 0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if user:  # root there, so that it may mount
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True, capture_output=True)


if __name__ == "__main__":
    command()
