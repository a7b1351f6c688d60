"""What tests of a tuning farm share: a tracker, boards that can be killed, one that never answers, and a network of one
kernel to tune on them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn
from tvm.rpc import base
from tvm.rpc.base import TrackerCode
from zeros import prune

from tvm_sched.records.database import RECORDS
from tvm_sched.tuning.farm import Farm
from tvm_sched.tuning.tracker import Device, NoTracker, Tracker

HOST = "127.0.0.1"
SERVE = Path(__file__).parents[1] / "scripts" / "serve_board.py"
PYTHON = sys.executable, str(Path(__file__).with_name("without_pytorch.py"))
START_S = 600  # of a board, at the most


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running_tracker():
    """The address of a tracker that runs in a thread."""
    from tvm.rpc.tracker import PopenTrackerServerState

    port = free_port()
    state = PopenTrackerServerState(HOST, port, port + 1, silent=True)
    try:
        yield f"{HOST}:{port}"
    finally:
        with Tracker(f"{HOST}:{port}").connection() as sock:
            base.sendjson(sock, [TrackerCode.STOP, state.stop_key])
            base.recvjson(sock)
        state.thread.join()


class Board:
    """`scripts/serve_board.py` in a process group of its own: as a board, it dies as a whole."""

    def __init__(self, tracker: str, key: str, command=PYTHON, threads: int = 1, **environment):
        self.tracker, self.key, self.port = tracker, key, free_port()
        self.device = Device(HOST, self.port)
        self.command = [
            *command,
            str(SERVE),
            "--tracker",
            tracker,
            "--key",
            key,
            "--host",
            HOST,
            "--port",
            str(self.port),
        ]
        self.environment = os.environ | {"TVM_NUM_THREADS": str(threads)} | environment
        self.process = None

    def start(self) -> "Board":
        """Starts it; returns when the tracker knows it."""
        self.process = subprocess.Popen(self.command, env=self.environment, start_new_session=True)
        deadline = time.monotonic() + START_S
        while not self.is_registered():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        return self

    def is_registered(self) -> bool:
        """Whether the tracker knows it; False, too, where the tracker is too busy to say."""
        with suppress(NoTracker):
            return any(kind.key == self.key and self.device in kind.devices for kind in Tracker(self.tracker).kinds())
        return False

    def kill(self):
        """SIGKILL for the server and its sessions."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        self.kill()


class Killing(Farm):
    """Kills a board as soon as it has begun the measurement after so many; `kills` maps these numbers to what is called
    then.
    """

    def __init__(self, board: Board, *args, kills, **options):
        self.said = []
        super().__init__(*args, say=self.said.append, **options)
        self.board, self.kills = board, kills

    def has_answered(self, device):
        super().has_answered(device)
        measured = self.history(device).measured
        if device == self.board.device and measured in self.kills:
            self.board.kill()
            self.kills.pop(measured)()


@contextmanager
def silent_board(tracker: str, key: str):
    """The Device of a server that registers, takes connections, and never says a word."""
    with socket.create_server((HOST, 0)) as server, Tracker(tracker).connection() as registered:
        device = Device(*server.getsockname())
        for message in (
            [TrackerCode.UPDATE_INFO, {"key": f"server:{key}", "addr": [HOST, device.port]}],
            [TrackerCode.PUT, key, (device.port, f"{key}:0.5"), HOST],
        ):
            base.sendjson(registered, message)
            assert base.recvjson(registered) == TrackerCode.SUCCESS
        yield device


def network():
    """(module, example input): one convolution with zeros."""
    torch.manual_seed(0)
    return prune(nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), 16, 0.25).eval(), torch.randn(1, 32, 8, 8)


def records(folder: Path) -> list:
    """The lines of a tuning log."""
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def distinct(folder: Path) -> int:
    """How many schedules have records."""
    return len({json.dumps(record[0]) for _, record in records(folder)})
