"""A process of its own that times kernels on this machine: it does not survive a crash or a hang of a kernel, we do."""

from multiprocessing.connection import Connection

from subp_contract.child_process import serving


class MeasuringProcess:
    """Measures on so many threads."""

    def __init__(self, threads: int):
        self.process, self.connection = serving(__name__)
        self.connection.send(threads)

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


def serve(connection: Connection) -> None:
    """What the process does, until its caller has ended: it hears of the threads, then of kernels."""
    import tvm

    from tvm_sched import runtime
    from tvm_sched.tuning import timing

    runtime.begin_measuring(connection.recv())
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
