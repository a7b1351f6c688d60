"""The transposing intrinsics against NumPy; when they are made, and that a record that names one finds it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from te_run import function, run
from test_pixel_lanes_conv2d import ONE_CORE, Layer
from tvm import te
from tvm.s_tir import Schedule, TensorIntrin

from tvm_sched.kernels.rewrites.transpose import BYTE_COLS, COLS, ROWS, make_needed, transpose
from tvm_sched.records.database import Records
from tvm_sched.records.fastest import BEST, write_best

IMPORT_ALL = """
import importlib, pkgutil
import tvm.relax, tvm.relax.frontend.torch
from tvm.s_tir import TensorIntrin
from tvm.script.parser.core.parser import Parser

def refuse(*args, **kwargs):
    raise AssertionError("computed at import")

Parser.parse = TensorIntrin.register = refuse
import tvm_sched
names = [module.name for module in pkgutil.walk_packages(tvm_sched.__path__, "tvm_sched.")]
for name in names:
    importlib.import_module(name)
assert "tvm_sched.kernels.rewrites.transpose" in names
"""

REPLAY = f"""
import sys
sys.modules["torch"] = None  # half of the start, and not needed
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]}
from test_pixel_lanes_conv2d import ONE_CORE, Layer
from tvm_sched.records.fastest import BestRecords
from tvm_sched.records.database import Records

func = Layer((1, 8, 8, 32), 16, kept=4).mod["main"]
records = {{"best": BestRecords, "database": Records}}[sys.argv[1]](sys.argv[2], ONE_CORE)
print(records.lookup(func).schedule.mod["main"].body)
"""


def in_a_fresh_process(code: str, *args) -> str:
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scope", ["global", "local"])
@pytest.mark.parametrize(
    ("rows", "cols", "dtype"),
    [
        *((rows, cols, "float32") for rows in ROWS for cols in (COLS, 2 * COLS, 4 * COLS)),
        (16, 4 * COLS, "int32"),
        *((rows, cols, "uint8") for rows in (8, 16) for cols in (BYTE_COLS, 2 * BYTE_COLS)),
        (16, BYTE_COLS, "int8"),
    ],
)
def test_transposes(rows, cols, scope, dtype):
    """Each part of a larger matrix, so that rows are no neighbours in memory."""
    a = te.placeholder((2 * rows, 3 * cols), dtype)
    turned = te.compute((3 * cols, 2 * rows), lambda j, i: a[i, j], name="turned")
    sch = Schedule(function([a], te.compute(turned.shape, lambda j, i: turned[j, i], name="copied")))
    j, i = sch.get_loops(sch.get_sblock("copied"))
    (j, j_inner), (i, i_inner) = sch.split(j, [None, cols]), sch.split(i, [None, rows])
    sch.reorder(j, i, j_inner, i_inner)
    block = sch.get_sblock("turned")
    sch.compute_at(block, i)
    sch.set_scope(block, 0, scope)
    sch.tensorize(sch.get_loops(block)[2], transpose(rows, cols, scope, dtype))
    matrix = np.arange(6 * rows * cols).astype(dtype).reshape(2 * rows, 3 * cols)
    assert (run(sch, ONE_CORE, [matrix], (3 * cols, 2 * rows), dtype) == matrix.T).all()


def test_a_recorded_name_tells_the_intrinsic():
    for name in ("transpose_4x12_local", "transpose_16x20_global_int32", "transpose_8x48_global_int8"):
        make_needed([[["Tensorize", [], [name], []]], []])
        assert TensorIntrin.get(name) is not None


def test_nothing_is_parsed_or_registered_at_import():
    in_a_fresh_process(IMPORT_ALL)


@pytest.mark.parametrize("kind", ["best", "database"])
def test_a_record_that_names_an_intrinsic_applies_in_a_fresh_process(kind, tmp_path):
    layer = Layer((1, 8, 8, 32), 16, kept=4)
    sch = layer.scheduled()
    Records(tmp_path, ONE_CORE, create=True).add(layer.mod["main"], sch, [1e-3])
    assert write_best(tmp_path, tmp_path) == 1
    instructions, _ = json.loads((tmp_path / BEST).read_text())["trace"]
    assert sum(kind == "Tensorize" for kind, *_ in instructions) == 2
    assert in_a_fresh_process(REPLAY, kind, tmp_path).strip() == str(sch.mod["main"].body).strip()
