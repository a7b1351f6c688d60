"""A farm of boards: kernels measured on whatever devices a TVM RPC tracker has under one key, several at once.

Every measurement is a session of its own with a device that the tracker has free, so that tuners can share a farm. A
thread here looks after each, and a process (`farm_worker`) talks to the board; whichever of them is stuck is ended when
its time is over. Three things can go wrong:

- The kernel fails and the device is well: that trial has failed.
- The device does not answer, or the session breaks off: the device is named and left out until it answers again, longer
  each time that it fails in a row. The kernel is measured on another, at most ATTEMPTS times: it may be what the
  devices break on.
- No device has answered for some time: the search ends with a sentence. What has been measured is on disk.
"""

import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

from tvm.s_tir.meta_schedule.runner import RunnerResult

from subp_contract.errors import UserError
from tvm_sched.tuning.measuring import TIMEOUT_S, Job
from tvm_sched.tuning.tracker import Device, Lease, NoTracker, Tracker

ATTEMPTS = 3  # to measure one kernel, where sessions break off
CONNECT_S = 15  # for a device to answer
PATIENCE_S = 120  # without any device, before the search gives up: a board starts in less
MARGIN_S = 15  # for what happens around a session that the device itself ends in time
START_S = 120  # for a worker to import TVM
POLL_S = 0.5  # between looks at what else has happened while waiting
LONGEST_PAUSE_S = 60  # that a failing device is left alone


class NoDevices(UserError):
    """There is no device left to measure on."""


@dataclass
class History:
    """What is known of a device."""

    measured: int = 0
    failures: int = 0  # in a row
    trouble: str | None = None  # why it is left out
    retry_at: float = 0  # when to try it again


class Farm:
    """The runner (see `measuring`) for the devices of one key; use it in a `with` block, which ends its processes."""

    def __init__(
        self,
        tracker: str,
        key: str,
        jobs: int | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        connect_s: float = CONNECT_S,
        patience_s: float = PATIENCE_S,
        say: Callable[[str], None] = lambda sentence: None,
    ):
        """tracker: 'HOST:PORT'. jobs: devices to use at once, at the most (all there are now). timeout_s: of a
        measurement. connect_s: for a device to answer. patience_s: without any device before giving up. say: called,
        from several threads, with what the user should know of devices.

        Raises UserError if the tracker does not answer or has no device of that key.
        """
        self.tracker, self.key, self.say = Tracker(tracker), key, say
        self.timeout_s, self.connect_s, self.patience_s = timeout_s, connect_s, patience_s
        devices = self.devices()
        if not devices:
            others = ", ".join(f"{kind.key} ({len(kind.devices)})" for kind in self.tracker.kinds() if kind.devices)
            raise UserError(f"the tracker at {tracker} has no device of key '{key}'; it has {others or 'none at all'}")
        self.jobs = jobs or len(devices)
        self.threads = 1  # that a kernel runs on
        self.cpu = key  # boards of one key are alike
        self.histories: dict[Device, History] = {}
        self.lock = threading.Lock()  # of what the threads share: histories, counts, processes
        self.sessions = 0  # with devices that have answered
        # Seconds that have been waited for a device, none of which answered.
        self.looked, self.waited = (time.monotonic(), 0.0)
        self.workers: list[Worker] = []
        self.idle: list[Worker] = []
        self.closed = False
        self.pool = ThreadPoolExecutor(self.jobs)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with self.lock:
            self.closed = True
            for worker in self.workers:
                worker.end()
        self.pool.shutdown(cancel_futures=True)

    def submit(self, job: Job) -> Future:
        """The Future of a kernel's RunnerResult, which is of the first device that is free; NoDevices is raised there
        if none is left.
        """
        return self.pool.submit(self.measure, job)

    def measure(self, job: Job) -> RunnerResult:
        """Has one kernel measured."""
        request = {
            "library": job.library,
            "arguments": job.arguments,
            "threads": self.threads,
            "timeout_s": self.timeout_s,
        }
        worker = self.worker()
        reasons = []
        try:
            while len(reasons) < ATTEMPTS:
                self.require_hope()
                worker.start()
                device, answer = self.session(worker, self.lease(), request)
                if "lost" not in answer:
                    return RunnerResult(answer.get("seconds"), answer.get("error"))
                if answer["connected"]:
                    reasons.append(f"{device}: {answer['lost']}")
        finally:
            self.idle.append(worker)
        return RunnerResult(None, f"lost on {ATTEMPTS} attempts ({'; '.join(reasons)})")

    def worker(self) -> "Worker":
        """A process that is free."""
        with self.lock:
            if not self.idle:
                self.idle.append(Worker())
                self.workers.append(self.idle[0])
            return self.idle.pop()

    def lease(self) -> Lease:
        """A device to connect to, as soon as there is one. Raises NoDevices."""
        while True:
            try:
                with self.tracker.request(self.key) as request:
                    lease = None
                    while lease is None:
                        self.require_hope()
                        self.miss(self.devices())
                        lease = request.wait(POLL_S)
            except NoTracker as error:  # one that was started again may find its devices again
                self.require_hope(str(error))
                time.sleep(POLL_S)
                continue
            if self.history(lease.device).retry_at <= time.monotonic():
                return lease

    def require_hope(self, trouble: str = ""):
        """Raises NoDevices if no device has answered for too long. To be called while waiting: no call counts for more
        than a second, so that a search that was paused, or was busy with builds, has not waited.
        """
        if self.closed:
            raise NoDevices("the search has ended")
        with self.lock:
            now = time.monotonic()
            self.waited = 0 if self.sessions else self.waited + min(now - self.looked, 1)
            self.looked = now
            if self.waited < self.patience_s:
                return
            troubles = [f"{device} {history.trouble}" for device, history in self.histories.items() if history.trouble]
        why = "; ".join(troubles + [trouble] * bool(trouble)) or "all are busy or silent"
        raise NoDevices(f"no device of key '{self.key}' has answered for {self.patience_s:.0f} s: {why}")

    def session(self, worker: "Worker", lease: Lease, request: dict) -> tuple[Device, dict]:
        """(device, the worker's last answer) of one measurement; `connected` in an answer that tells of a loss is
        whether it had begun.
        """
        device, connected = lease.device, False
        try:
            worker.ask({**request, "host": device.host, "port": device.port, "matchkey": lease.matchkey})
            answer = worker.answer(self.connect_s)
            if connected := "connected" in answer:
                self.has_answered(device)
                answer = worker.answer(self.timeout_s + MARGIN_S)
        except TimeoutError as error:
            answer = {"lost": f"gave no result in {error} s" if connected else f"did not answer in {error} s"}
        except ChildProcessError:
            answer = {"lost": "the process that spoke to it ended"}
        finally:
            with self.lock:
                self.sessions -= connected
        if "lost" in answer:
            self.has_failed(device, answer["lost"])
            return device, answer | {"connected": connected}
        with self.lock:
            history = self.histories[device]
            history.measured, history.failures = history.measured + 1, 0
        return device, answer

    def devices(self) -> list[Device]:
        """Those that the tracker has of the key, free or busy. Raises NoTracker."""
        return next((kind.devices for kind in self.tracker.kinds() if kind.key == self.key), [])

    def miss(self, registered: list[Device]):
        """Names the devices that were there and are not registered any more."""
        with self.lock:
            gone = [
                device for device, history in self.histories.items() if device not in registered and not history.trouble
            ]
            for device in gone:
                self.histories[device].trouble = "is not registered at the tracker any more"
        for device in gone:
            self.say(
                f"device {device} is not registered at the tracker any more; it is left out until it answers again"
            )

    def history(self, device: Device) -> History:
        """What is known of a device."""
        with self.lock:
            return self.histories.setdefault(device, History())

    def has_answered(self, device: Device):
        """Notes that a session with a device has begun."""
        history = self.history(device)
        with self.lock:
            self.sessions, self.waited = self.sessions + 1, 0
            back, history.trouble = history.trouble is not None, None
        if back:
            self.say(f"device {device} answers again")

    def has_failed(self, device: Device, why: str):
        """Leaves a device out: a first failure until the tracker offers it again, further ones in a row for a time that
        doubles.
        """
        if self.closed:
            return
        history = self.history(device)
        with self.lock:
            known, history.trouble = history.trouble is not None, why
            history.failures += 1
            history.retry_at = time.monotonic() + (
                min(LONGEST_PAUSE_S, 5 * 2 ** (history.failures - 2)) if history.failures > 1 else 0
            )
        if not known:
            self.say(f"device {device} {why}; it is left out until it answers again")

    def summary(self) -> list[str]:
        """A line a device that was used: what it measured, and what became of it."""
        with suppress(NoTracker):
            self.miss(self.devices())
        with self.lock:
            known = sorted(self.histories.items(), key=lambda item: str(item[0]))
        return [
            f"{device}: {each.measured} measurements" + (f"; left out: {each.trouble}" if each.trouble else "")
            for device, each in known
        ]


class Worker:
    """A `farm_worker` process, started when it is needed."""

    def __init__(self):
        self.process = None

    def start(self):
        """Has the process ready. Raises UserError if it cannot be had."""
        if self.process is None:
            command = [sys.executable, "-m", "tvm_sched.tuning.farm_worker"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, bufsize=0, **pipes)  # `select` does not see what a buffer holds
            try:
                self.answer(START_S)
            except (ChildProcessError, TimeoutError):
                raise UserError(f"'{' '.join(command)}' does not start") from None

    def ask(self, request: dict):
        """Sends a request."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            self.kill()
            raise ChildProcessError from None

    def answer(self, seconds: float) -> dict:
        """The next answer. Raises TimeoutError or ChildProcessError if none comes in that time; the process is then
        ended.

        Many short waits make up a long one, of which a pause of the whole machine costs one.
        """
        waits = range(ceil(seconds / POLL_S))
        if not any(select.select([self.process.stdout], [], [], POLL_S)[0] for _ in waits):
            self.kill()
            raise TimeoutError(round(seconds))
        line = self.process.stdout.readline()
        if not line.endswith(b"\n"):
            self.kill()
            raise ChildProcessError
        return json.loads(line)

    def kill(self):
        """Ends the process; the next request has another."""
        self.process.kill()
        self.process.communicate()
        self.process = None

    def end(self):
        """Ends the process from another thread, which finds its answers to have ended."""
        if process := self.process:
            process.kill()
