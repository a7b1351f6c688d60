"""Each artifact runs on its own number of threads, which nothing else of the process sets or feels; idle threads soon
sleep.

The tests' own process has one thread (conftest.py), so another looks.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subp_contract.errors import UserError
from tvm_sched import runtime

TESTS = Path(__file__).parents[1]


def told(code: str, **environment: str) -> dict:
    """The JSON that `code` prints in a process whose pools of threads may hold two, with nothing else set."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}
    python_path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = clean | {"TVM_NUM_THREADS": "2", "PYTHONPATH": python_path} | environment
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ARTIFACTS = """
import json, tempfile
from concurrent.futures import ThreadPoolExecutor
import torch, tvm
import tvm_sched

threads = tvm.get_global_func("runtime.NumThreads")
x = torch.zeros(1, 3, 4, 4)

def seen(artifact):  # while it runs
    numbers = set()
    artifact.timed(lambda _: numbers.add(threads()))(x.numpy())
    return sorted(numbers)

told = {"first": threads()}
one, two = (tvm_sched.compile(torch.nn.Conv2d(3, 16, 1), x, threads=count) for count in (1, 2))
told["after compile"] = threads()
with tempfile.TemporaryDirectory() as folder:
    two.save(f"{folder}/two.so")
    same, fewer = tvm_sched.load(f"{folder}/two.so"), tvm_sched.load(f"{folder}/two.so", threads=1)
told["after load"] = threads()
told["in turn"] = [seen(artifact) for artifact in (one, two, one, same, fewer, two)]
told["own"] = [artifact.threads for artifact in (one, two, same, fewer)]
with ThreadPoolExecutor(1) as other:
    told["elsewhere"] = [other.submit(seen, artifact).result() for artifact in (one, two, one)]
one(x.numpy())
tvm.get_global_func("runtime.config_threadpool")(0, 2)
told["set by others"] = seen(one)
print(json.dumps(told))
"""


def test_artifacts_of_different_numbers_of_threads_run_beside_one_another():
    assert told(ARTIFACTS) == {
        "first": 2,
        "after compile": 2,
        "after load": 2,
        "in turn": [[1], [2], [1], [2], [1], [2]],
        "own": [1, 2, 2, 1],
        "elsewhere": [[1], [2], [1]],
        "set by others": [1],
    }


IDLE = """
import json, time
from tvm_sched.bench import peak

kernel = peak.Peak(2, 1000)
for _ in range(10):
    kernel()
before = time.process_time()
time.sleep(0.5)
print(json.dumps(time.process_time() - before))
"""


def test_threads_without_work_soon_sleep():
    """TVM's own 300,000 yields take 0.1 s of CPU and more, whoever else wants it."""
    assert told(IDLE) < 0.03


def test_the_users_own_settings_stay():
    names = ("TVM_THREAD_POOL_SPIN_COUNT", "TVM_BIND_THREADS", "TVM_NUM_THREADS")
    code = f"import json, os, tvm_sched; print(json.dumps([os.environ[name] for name in {names}]))"
    own = dict.fromkeys(names, "1") | {"TVM_THREAD_POOL_SPIN_COUNT": "7"}
    assert told(code, **own) == list(own.values())


@pytest.mark.parametrize("count", [0, -1, runtime.most_threads() + 1])
def test_threads_that_the_process_lacks_are_told(count):
    with pytest.raises(UserError, match=f"{count} threads asked for"):
        runtime.set_threads(count)
