"""A record's trace has what our schedules use, or is named and left out."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from tvm import IRModule
from tvm.s_tir import Schedule
from tvm.script import tirx as T
from zeros import prune

import tvm_sched
from subp_contract.errors import Notice
from tvm_sched import compiler, pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.pipeline import Compilation
from tvm_sched.records import traces
from tvm_sched.records.database import RECORDS, Records
from tvm_sched.records.fastest import BEST, write_best
from tvm_sched.tuning.tiles import Space, tasks_of

TARGET = replace(targets.host(), cores=1)
X = torch.zeros(1, 32, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return prune(nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), 16, 0.25).eval()


@pytest.fixture(scope="module")
def task():
    (task,) = tasks_of(pipeline.fused(torch_export.from_torch(network(), X), Compilation(TARGET)))
    return task


@pytest.fixture(scope="module")
def database(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("database")
    Records(folder, TARGET, create=True).add(task.func, Space(task.func, TARGET).schedules[1], [1e-3])
    return folder


def loop_of(trace):
    return next(step[3][0] for step in trace[0] if step[0] == "GetLoops")


def block_of(trace):
    return trace[0][0][3][0]


HARM = {
    "assembler": (
        lambda trace: trace[0].append(["Annotate", [loop_of(trace), '"code"'], ["pragma_import_llvm"], []]),
        "the annotation 'pragma_import_llvm'",
    ),
    "dtype": (
        lambda trace: trace[0].append(["UnsafeSetDType", [block_of(trace)], [0, "float16"], []]),
        "the instruction 'UnsafeSetDType'",
    ),
    "intrinsic": (
        lambda trace: trace[0].append(["Tensorize", [loop_of(trace)], ["transpose_8000x8000_local", True], []]),
        "the intrinsic 'transpose_8000x8000_local'",
    ),
    "size": (
        lambda trace: next(step for step in trace[0] if step[0] == "Split")[1].__setitem__(1, 10**9),
        "the number 1000000000",
    ),
    "parts": (
        lambda trace: next(step for step in trace[0] if step[0] == "Split")[1].__setitem__(1, 5),
        "splits a loop into parts of given sizes",
    ),
    "names": (lambda trace: trace[0].append(["Unroll", ["l9999"], [], []]), "does not fit its function"),
    "no trace": (lambda trace: trace.clear(), "no list of instructions"),
}


@pytest.mark.parametrize(("harm", "told"), HARM.values(), ids=HARM)
@pytest.mark.parametrize("name", [RECORDS, BEST])
def test_a_trace_with_anything_else_is_named_and_left_out(database, task, tmp_path, harm, told, name):
    write_best(database, tmp_path)
    for file in database.glob("database_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    value = json.loads((tmp_path / name).read_text())
    trace = value["trace"] if name == BEST else value[1][0]
    harm(trace)
    (tmp_path / name).write_text(json.dumps(value) + "\n")
    if name == BEST:
        (tmp_path / RECORDS).unlink()
    records = compiler.open_records(tmp_path, TARGET)
    with pytest.warns(Notice, match=f"line 1 of .*{name} is left out: .*{told}"):
        assert records.lookup(task.func) is None


def test_a_network_compiles_without_the_record_that_is_left_out(database, tmp_path):
    write_best(database, tmp_path)
    line = json.loads((tmp_path / BEST).read_text())
    assert line["tvm"] == traces.version()
    (tmp_path / BEST).write_text(json.dumps(line | {"tvm": "0.26.0"}) + "\n")
    with pytest.warns(Notice, match=r"line 1 of .*: it was made with TVM 0\.26\.0, and this is 0\.27"):
        artifact = tvm_sched.compile(network(), X, threads=1, records=tmp_path)
    assert artifact.schedules() == {"default": 1}
    x = np.random.default_rng(0).standard_normal((1, 32, 8, 8), dtype="float32")
    with torch.no_grad():
        np.testing.assert_allclose(artifact(x), network()(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-5)


def test_code_that_unrolls_too_far_is_told():
    @T.prim_func(s_tir=True)
    def adding(a: T.Buffer((64, 512), "float32"), b: T.Buffer((64, 512), "float32")):
        for i, j in T.grid(64, 512):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                b[vi, vj] = a[vi, vj] + 1.0

    sch = Schedule(IRModule({"main": adding}))
    outer, inner = sch.get_loops(sch.get_sblock("add"))
    sch.unroll(inner)
    assert traces.too_large(sch.mod["main"]) == ""
    sch.unroll(outer)
    assert traces.too_large(sch.mod["main"]) == "its trace unrolls 32768 steps"


def test_the_shipped_records_have_no_fault():
    lines = [json.loads(line) for file in compiler.SHIPPED.glob(f"*/{BEST}") for line in file.read_text().splitlines()]
    found = [line["trace"] for line in lines if "trace" in line]
    assert len(found) > 100
    assert not any(map(traces.fault, found))
