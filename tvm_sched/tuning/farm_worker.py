"""The process that talks to one board at a time, for `farm`: TVM's RPC client waits for ever, and a process can be
ended.

    python -m tvm_sched.tuning.farm_worker

Standard input has a request a line, JSON: `host`, `port` and `matchkey` of the RPC server, `library` and
`arguments` (files, see `measuring.Job`), `threads`, `timeout_s` (of the session). Standard output answers, a JSON
line each: {"ready": true} once; then for a request {"connected": true} and {"seconds": [...]}, or {"error": why} where
the kernel failed and the board is well, or {"lost": why} where it is not. The process ends with its input.
"""

import json
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue

from tvm_sched import runtime_library

with runtime_library.without_pytorch():  # more than half of the time until it is ready
    from tvm import rpc

    from tvm_sched.tuning import timing

EXPIRED = "RPCSessionTimeoutError"  # what a server says when it ends a session that took too long


def main():
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    requests: SimpleQueue = SimpleQueue()
    threading.Thread(target=answer_all, args=(requests, answers), daemon=True).start()
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)  # though a board be waited for


def answer_all(requests: SimpleQueue, answers):
    """Answers one request after the other."""
    print(json.dumps({"ready": True}), file=answers)
    while True:
        for each in answers_to(requests.get()):
            print(json.dumps(each), file=answers)


def answers_to(request: dict):
    """Yields the answers to a request."""
    try:
        session = rpc.connect(
            request["host"], request["port"], request["matchkey"], session_timeout=request["timeout_s"]
        )
        session.get_function("runtime.config_threadpool")(0, request["threads"])
        threads = session.get_function("runtime.NumThreads")()
    except Exception as error:  # TVM raises what it likes
        yield {"lost": f"cannot be connected to ({last_line(error)})"}
        return
    if threads < request["threads"]:
        yield {"lost": f"runs no more than {threads} threads, and {request['threads']} are asked for"}
        return
    yield {"connected": True}
    try:
        yield {"seconds": measure(session, request["library"], request["arguments"])}
    except Exception as error:
        well = EXPIRED in str(error) or answers_still(session)
        yield {"error": last_line(error)} if well else {"lost": f"broke the session off ({last_line(error)})"}


def measure(session: rpc.RPCSession, library: str, arguments: str) -> list[float]:
    """Seconds of each timed call of a library's kernel on the session's board."""
    name = Path(library).name
    session.upload(library, name)
    flush = timing.FLUSH_WEIGHTS if knows(session, timing.FLUSH_WEIGHTS) else timing.FLUSH
    return timing.seconds_of(session.load_module(name), session.cpu(), timing.load_arguments(arguments), flush)


def knows(session: rpc.RPCSession, function: str) -> bool:
    """Whether the board has a function of this name."""
    try:
        session.get_function(function)
    except Exception:  # TVM raises what it likes
        return False
    return True


def answers_still(session: rpc.RPCSession) -> bool:
    """Whether the board's end of the session is alive."""
    try:
        session.get_function("runtime.NumThreads")()
    except Exception:
        return False
    return True


def last_line(error: Exception) -> str:
    """The end of an error's text, where TVM says what it is about."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


if __name__ == "__main__":
    main()
