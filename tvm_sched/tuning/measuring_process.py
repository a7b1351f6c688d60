"""A process of its own that times kernels on this machine: it does not survive a crash or a hang of a kernel, we do.

It does not load PyTorch, which TVM imports where it is found: more than half of the time until it measures.
"""

import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection

SERVE = """
import sys
from multiprocessing.connection import Connection
own = Connection(int(sys.argv[1]))
sys.path[:], threads = own.recv()
sys.modules["torch"] = None
from tvm_sched.tuning import measuring_process
measuring_process.serve(own, threads)
"""


class MeasuringProcess:
    """Measures on so many threads."""

    def __init__(self, threads: int):
        self.connection, its_end = Pipe()
        with its_end:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(its_end.fileno())],
                pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self.connection.send((sys.path, threads))

    def seconds(self, library: str, arguments: str, timeout_s: float) -> list[float] | str:
        """Of each timed call of a library's kernel on the arguments in a file, or why there are none. Raises
        TimeoutError, and OSError or EOFError where the process has ended, or does so meanwhile.
        """
        self.connection.send((library, arguments))
        if not self.connection.poll(timeout_s):
            raise TimeoutError
        return self.connection.recv()

    def end(self) -> None:
        """Whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


def serve(connection: Connection, threads: int) -> None:
    """What the process does, until its caller has ended."""
    import tvm

    from tvm_sched import runtime
    from tvm_sched.tuning import timing

    runtime.begin_measuring(threads)
    while True:
        try:
            library, arguments = connection.recv()
        except EOFError:
            return
        told: list[float] | str
        try:
            module = tvm.runtime.load_module(library)
            told = timing.seconds_of(module, tvm.cpu(), timing.load_arguments(arguments))
        except Exception as error:  # of any kind: TVM raises what it likes
            told = str(error)
        connection.send(told)
