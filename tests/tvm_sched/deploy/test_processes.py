"""Artifacts in threads and processes: forked, spawned, called by many at once.

The tests' own process has one thread (conftest.py), so another looks.
"""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tvm_sched
from subp_contract.errors import UserError

ROOT = Path(__file__).parents[3]
CODE = """
import json, multiprocessing, os, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
import torch, tvm_sched
from torch.utils.data import DataLoader

class Outputs(torch.utils.data.Dataset):
    def __init__(self, artifact):
        self.artifact = artifact

    def __len__(self):
        return 6

    def __getitem__(self, place):
        return self.artifact(inputs(place))[0]

def inputs(seed):
    return torch.randn(1, 16, 12, 12, generator=torch.Generator().manual_seed(seed))

def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(16, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 16, 3)).eval()

def answer_of(artifact, seed):
    return artifact(inputs(seed))

def seen(artifact):
    import tvm  # which compiling has imported; a process that is started anew needs it not

    numbers = set()
    timed = artifact.timed(lambda _: numbers.add(tvm.get_global_func("runtime.NumThreads")()))
    timed(inputs(0))
    return numbers

def forked(check):
    child = os.fork()
    if child == 0:
        signal.alarm(300)  # it dies where it hangs
        os._exit(0 if check() else 3)
    return os.waitpid(child, 0)[1]

if __name__ == "__main__":
    path = sys.argv[1]
    tvm_sched.compile(network(), inputs(0), threads=2, check=False).save(path)
    artifact = tvm_sched.load(path)
    told = {"threads": artifact.threads, "before any call": forked(lambda: seen(artifact) == {2})}
    right = [artifact(inputs(seed)) for seed in range(6)]

    def same(artifact):
        return all(torch.equal(answer_of(artifact, seed), y) for seed, y in enumerate(right))

    told["forked"] = forked(lambda: same(artifact) and seen(artifact) == {1})
    child = os.fork()  # when the workers have slept for long
    if child == 0:
        signal.alarm(300)
        sys.exit(7 if same(artifact) else 3)
    told["ended by sys.exit"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told["loaded there"] = forked(lambda: same(tvm_sched.load(path)))
    with ThreadPoolExecutor(8) as threads:
        told["a thread of the child's own"] = forked(
            lambda: ThreadPoolExecutor(1).submit(lambda: same(artifact) and seen(artifact) == {2}).result()
        )
        calls = [threads.submit(same, artifact) for _ in range(40)]
        told["forked while others call"] = [forked(lambda: same(artifact)) for _ in range(3)]
        told["eight threads"] = all(call.result() for call in calls)
    loaded = DataLoader(Outputs(artifact), batch_size=2, num_workers=2, timeout=300)
    told["workers"] = torch.equal(torch.cat(list(loaded)), torch.cat(right))
    told["parent"] = same(artifact) and seen(artifact) == {2}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        told["spawned"] = torch.equal(pool.apply(answer_of, (artifact, 3)), right[3])
    print(json.dumps(told))
"""
NOTHING_WRONG = {
    "threads": 2,
    "before any call": 0,
    "forked": 0,
    "ended by sys.exit": 7,
    "loaded there": 0,
    "a thread of the child's own": 0,
    "forked while others call": [0, 0, 0],
    "eight threads": True,
    "workers": True,
    "parent": True,
    "spawned": True,
}


def test_threads_and_processes_give_the_same_numbers(tmp_path):
    script, path = tmp_path / "run.py", tmp_path / "net.so"
    script.write_text(CODE)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}
    environment = clean | {"TVM_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, str(script), str(path)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == NOTHING_WRONG


FORKING_THREAD = """
import os, threading
from tvm_sched import runtime

def fork():
    child = os.fork()
    if not child:
        os._exit(0)
    print(os.waitpid(child, 0)[1])

runtime.make_pool()
thread = threading.Thread(target=fork)
thread.start()
thread.join()
"""


def test_a_thread_that_never_called_tvm_may_fork():
    """As those do in which `subprocess` runs: its hooks find nothing of the thread's own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FORKING_THREAD], env=environment, capture_output=True, text=True, timeout=900
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


@pytest.fixture(scope="module")
def artifact():
    torch.manual_seed(0)
    return tvm_sched.compile(nn.Linear(16, 16).eval(), torch.zeros(2, 16), threads=1)


def test_an_artifact_in_no_file_is_not_pickled(artifact):
    with pytest.raises(UserError, match="save it, and load it again"):
        pickle.dumps(artifact)


def test_an_artifact_is_pickled_and_copied_by_its_path(artifact, tmp_path):
    path, x = tmp_path / "net.so", torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    artifact.save(path)
    loaded = tvm_sched.load(path)
    for other in (artifact, loaded):
        assert len(pickle.dumps(other)) < 5000
        for same in (pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
            assert torch.equal(same(x), artifact(x)) and same.threads == 1
    other = tvm_sched.compile(nn.Linear(16, 8), torch.zeros(2, 16), threads=1)
    pickled = pickle.dumps(loaded)
    other.save(path)
    with pytest.raises(UserError, match="holds another network"):
        pickle.loads(pickled)


RESIDENT = """
import gc, json, sys, torch, tvm_sched
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def load():
    artifact = tvm_sched.load(sys.argv[1], threads=1)
    return artifact(torch.zeros(1, 512))
for _ in range(10):
    load()
gc.collect()
before = resident()
for _ in range(40):
    kept = load()
gc.collect()
print(json.dumps([resident() - before, float(kept.sum())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_not_used_any_more_leaves_memory(tmp_path):
    path = tmp_path / "net.so"
    network = nn.Linear(512, 1024, bias=False)  # 2 MB
    nn.init.zeros_(network.weight)
    network.weight.data[:, :256] = 1.0
    tvm_sched.compile(network, torch.zeros(1, 512), threads=1).save(path)
    done = subprocess.run([sys.executable, "-c", RESIDENT, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    grown, total = json.loads(done.stdout)
    assert grown < 8 << 20 and total == 0
