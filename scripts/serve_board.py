#!/usr/bin/env python3
"""Serves this board to a tuning farm: takes compiled kernels over TVM's RPC, runs them, and sends their times back.

    pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 psutil   # no compiler, nothing of this repository
    ./serve_board.py --tracker 192.168.1.2:9190 --key rpi5 --host 192.168.1.7

SECURITY. TVM's RPC has neither passwords nor encryption: whoever can connect may write files here and run any code,
with this user's rights. Give --host the board's address in a network of your own (never 0.0.0.0 on a network that
others use), let a firewall admit the tuning machine alone, and run this as a user who owns nothing:

    sudo ufw allow from 192.168.1.2 to 192.168.1.7 port 9090:9099 proto tcp && sudo ufw enable
"""

import argparse
import logging
import multiprocessing
import os
import sys
import time


def main():
    """Serves until it is ended. A kernel that crashes takes TVM's listening thread with it: then another is started."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="TVM's RPC runs whatever it is sent: see the note in this file."
    )
    parser.add_argument("--tracker", type=address, required=True, metavar="HOST:PORT", help="the farm's tracker")
    parser.add_argument("--key", required=True, help="what this board is; boards of one key must be alike")
    parser.add_argument(
        "--host", default="127.0.0.1", help="this board's own address, where it listens and is reached [127.0.0.1]"
    )
    parser.add_argument("--port", type=int, default=9090, help="the first of ten ports to try [9090]")
    chosen = parser.parse_args()
    # TVM's own choice is half of the cores, and to tie the main thread to one of them.
    os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    multiprocessing.set_start_method("fork")
    try:
        from tvm.rpc.server import PopenRPCServerState, logger
    except ImportError as error:
        sys.exit(f"serve_board: {error}; 'pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 psutil'")
    logger.setLevel(logging.WARNING)
    serve_flush()
    print(
        f"serve_board: anyone who can connect to {chosen.host} may run code here; see the security note in {__file__}",
        flush=True,
    )
    folder = os.getcwd()
    while True:
        os.chdir(folder)  # a session that crashed has left us in its own, which is gone
        try:
            registered_as = {"tracker_addr": chosen.tracker, "key": chosen.key, "custom_addr": chosen.host}
            server = PopenRPCServerState(chosen.host, chosen.port, chosen.port + 10, **registered_as)
        except (OSError, ValueError) as error:
            sys.exit(f"serve_board: cannot listen at {chosen.host}: {error}")
        print(
            f"serve_board: '{chosen.key}' listens at {chosen.host}:{server.port}, tracker "
            f"{chosen.tracker[0]}:{chosen.tracker[1]}",
            flush=True,
        )
        server.thread.join()
        server.sock.close()
        print("serve_board: stopped by a session that crashed, or without a tracker; serving again", flush=True)
        time.sleep(1)


def serve_flush():
    """Lets the tuning machine have a kernel's weights thrown out of the caches before each call, and neither its input
    nor the memory of its result: all arguments but the first and the last.
    """
    import tvm
    import tvm_ffi

    flush = tvm.get_global_func("cache_flush_cpu_non_first_arg")
    tvm_ffi.register_global_func("subp.flush_weights", lambda *arguments: flush(*arguments[:-1]))


def address(text: str) -> tuple[str, int]:
    """'HOST:PORT' as (host, port)."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not HOST:PORT")
    return host, int(port)


if __name__ == "__main__":
    main()
