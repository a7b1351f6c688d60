"""A TVM RPC tracker's list of devices, asked for with time limits; TVM's own client waits for ever.

A device registers with a key ('rpi5': what it is) and is in one of two states: free, in the tracker's queue, or busy
with somebody's session. Protocol: tvm/rpc/tracker.py.
"""

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
from tvm.rpc import base
from tvm.rpc.base import TrackerCode

from subp_contract.documents import parse_json, shown
from subp_contract.errors import UserError

REPLY_S = 10  # for a tracker to say what it knows at once
LONGEST = 2**24  # bytes of an answer
_Address = tuple[str, int]


class _Server(msgspec.Struct):
    """A device, as the tracker tells."""

    key: str
    addr: _Address


class _Queue(msgspec.Struct):
    """A key's devices and requests."""

    free: int
    pending: int


class _Summary(msgspec.Struct):
    """All that a tracker knows."""

    server_info: list[_Server]
    queue_info: dict[str, _Queue]


@dataclass(frozen=True)
class Device:
    """Where an RPC server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Kind:
    """The devices of one key."""

    key: str
    devices: list[Device]
    free: int
    waiting: int  # requests that no device has been found for


@dataclass(frozen=True)
class Lease:
    """A device that is ours to connect to. One that is not used goes back to the tracker by itself within seconds."""

    device: Device
    matchkey: str


class NoTracker(UserError):
    """The tracker does not answer."""


class Tracker:
    """The tracker at an address 'HOST:PORT'."""

    def __init__(self, address: str):
        """Raises UserError for an address that is none."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"'{address}' is not a tracker's address: HOST:PORT is wanted, such as 192.168.1.2:9190")
        self.address, self.host, self.port = address, host.strip("[]"), int(port)

    def kinds(self) -> list[Kind]:
        """All devices, by key. Raises NoTracker."""
        with self.connection() as sock:
            base.sendjson(sock, [TrackerCode.SUMMARY])
            _, summary = self.answer(sock, tuple[int, _Summary])
        devices: dict[str, list[Device]] = {}
        for server in summary["server_info"]:
            devices.setdefault(shown(server["key"].removeprefix("server:")), []).append(Device(*server["addr"]))
        queues = {shown(key): queue for key, queue in summary["queue_info"].items()}
        found = []
        for key in sorted({*devices, *(key for key, queue in queues.items() if queue["pending"])}):
            queue = queues.get(key, {"free": 0, "pending": 0})
            found.append(Kind(key, sorted(devices.get(key, []), key=str), queue["free"], queue["pending"]))
        return found

    @contextmanager
    def request(self, key: str) -> Iterator["Request"]:
        """Stands in the queue for a device of that key while the block runs."""
        with self.connection() as sock:
            base.sendjson(sock, [TrackerCode.REQUEST, key, "", 0])
            yield Request(self, sock)

    def answer(self, sock: socket.socket, kind: Any) -> Any:
        """The JSON that the tracker sends, of that kind. Raises NoTracker for any other."""
        (size,) = struct.unpack("<i", base.recvall(sock, 4))
        if not 0 <= size <= LONGEST:
            raise NoTracker(f"what answers at {self.address} is not a TVM RPC tracker: it sends {size} bytes")
        try:
            return parse_json(base.recvall(sock, size), kind, f"what the tracker at {self.address} answers")
        except UserError as error:
            raise NoTracker(str(error)) from None

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A socket on which the tracker takes commands. What fails in the block is told as the tracker's failure,
        NoTracker.
        """
        try:
            with closing(socket.create_connection((self.host, self.port), timeout=REPLY_S)) as sock:
                sock.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
                if struct.unpack("<i", base.recvall(sock, 4))[0] != base.RPC_TRACKER_MAGIC:
                    raise NoTracker(f"what answers at {self.address} is not a TVM RPC tracker")
                yield sock
        except UserError:
            raise
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if getattr(error, "errno", None) else str(error)
            raise NoTracker(f"no tracker answers at {self.address} ({reason})") from None


class Request:
    """A place in the tracker's queue."""

    def __init__(self, tracker: Tracker, sock: socket.socket):
        self.tracker, self.sock = tracker, sock

    def wait(self, seconds: float) -> Lease | None:
        """The device that the tracker gives within that time; None if it gives none yet."""
        if not select.select([self.sock], [], [], seconds)[0]:
            return None
        _, (host, port, matchkey) = self.tracker.answer(self.sock, tuple[int, tuple[str, int, str]])
        return Lease(Device(host, port), matchkey)
