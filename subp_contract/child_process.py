"""Processes of their own for work that may crash or hang, or that needs TVM's compiler: they serve a connection.

They do not load PyTorch, which TVM imports where it is found: more than half of the time until they are ready.
"""

import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from subprocess import Popen

SERVE = """
import sys
from importlib import import_module
from multiprocessing.connection import Connection
own = Connection(int(sys.argv[1]))
sys.path[:] = own.recv()
sys.modules["torch"] = None
import_module(sys.argv[2]).serve(own)
"""


def serving(module: str) -> tuple[Popen, Connection]:
    """A process that calls `serve` of the module of that name with its end of the connection."""
    connection, its_end = Pipe()
    with its_end:
        process = Popen(
            [sys.executable, "-c", SERVE, str(its_end.fileno()), module],
            pass_fds=[its_end.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    connection.send(sys.path)
    return process, connection
