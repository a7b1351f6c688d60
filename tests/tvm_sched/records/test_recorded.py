"""What a record says of itself, and for which threads it is used."""

import warnings
from dataclasses import astuple, replace

import pytest
import torch
import tvm_ffi
from torch import nn
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.tirx import PrimFunc
from zeros import prune

import tvm_sched
from subp_contract.errors import Notice
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import kernel_of
from tvm_sched.pipeline import Compilation
from tvm_sched.records.database import Records, workload
from tvm_sched.records.fastest import BestRecords, estimated, write_best, write_estimates
from tvm_sched.records.recorded import Recorded
from tvm_sched.tuning.tiles import Space, tasks_of

ONE, TWO = (replace(targets.X86_AVX2, cores=cores) for cores in (1, 2))
X = torch.zeros(1, 32, 6, 6)


def test_a_record_says_what_it_is_of():
    record = Recorded(False, 1.0, replay=None)
    assert [replace(record, estimated=guess, twin=twin).words for guess in (0, 1) for twin in (0, 1)] == [
        "record",
        "record for float32 weights",
        "estimate",
        "estimate for float32 weights",
    ]
    assert replace(record, cpu="AMD EPYC").words == "record: made on AMD EPYC"
    assert [replace(record, estimated=guess).seconds(ghz=2.0) for guess in (0, 1)] == [1.0, 0.5]


def network() -> nn.Module:
    torch.manual_seed(0)
    return prune(nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), 16, 0.25).eval()


@pytest.fixture(scope="module")
def func():
    (task,) = tasks_of(pipeline.fused(torch_export.from_torch(network(), X), Compilation(ONE)))
    return task.func


@pytest.fixture(scope="module")
def sch(func):
    """A schedule for one thread."""
    return Space(func, ONE).schedules[0]


FORMATS = {"database": Records, "packed": BestRecords}


@pytest.fixture(scope="module", params=FORMATS)
def of_format(request, tmp_path_factory):
    """of_format(func, schedule): a folder with this record of one thread, in both formats."""

    def written(func: PrimFunc, sch: Schedule):
        full, packed = tmp_path_factory.mktemp("records"), tmp_path_factory.mktemp("packed")
        Records(full, ONE, create=True).add(func, sch, [1e-3])
        write_best(full, packed)
        return {"database": full, "packed": packed}[request.param]

    written.opens = FORMATS[request.param]
    return written


def test_a_record_is_for_as_many_threads_as_it_was_measured_on(of_format, func, sch):
    folder = of_format(func, sch)
    found = of_format.opens(folder, ONE).lookup(func)
    assert found.words == "record" and found.seconds(ghz=2.0) == 1e-3
    assert found.schedule.mod["main"].script() == sch.mod["main"].script()
    of_two = of_format.opens(folder, TWO)
    assert of_two.lookup(func) is None and of_two.has(func)
    for target, words in ((ONE, "record"), (TWO, "default: ")):
        compilation = Compilation(target, of_format.opens(folder, target))
        (layer,) = pipeline.lower(torch_export.from_torch(network(), X), compilation).choices
        assert layer.schedule.startswith(words)


def test_an_estimated_tile_is_scheduled_anew(func, tmp_path):
    mod, kernel = workload(func), kernel_of(func)
    tiles = kernel.tiles(kernel.problem(Schedule(mod)), TWO)
    tile, expected = list(zip(tiles, Space(func, TWO).schedules, strict=True))[1]
    write_estimates(tmp_path, [estimated(mod, TWO, 1e-3, list(astuple(tile)))])
    found = BestRecords(tmp_path, TWO).lookup(func)
    assert found.words == "estimate"
    assert found.schedule.mod["main"].script() == expected.mod["main"].script()


def of_older_code(func: PrimFunc) -> PrimFunc:
    """The function as a version of its kernel that begins its sums otherwise would have made it."""
    begun = tvm_ffi.structural_map(func.body, (tirx.FloatImm, lambda number: tirx.const(-0.5, "float32")))
    return PrimFunc(func.params, begun, func.ret_type).with_attrs(dict(func.attrs))


def notices(of) -> list[str]:
    """The Notices that a call gives."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        of()
    return [str(each.message) for each in told if issubclass(each.category, Notice)]


def test_kernels_on_record_as_other_code_are_told_once_in_a_sentence(of_format, func):
    older = of_older_code(func)
    folder = of_format(older, Space(older, ONE).schedules[0])
    records = of_format.opens(folder, ONE)
    assert [records.lookup(func) for _ in range(2)] == [None, None]
    told = [
        f"kernels that are on record in {folder} as other code (of another version, or with other operators behind), "
        f"and so left without a record: 1; 'subp tune MODEL {records.renewed_by} {folder}' measures again"
    ]
    assert [notices(records.tell_changed) for _ in range(2)] == [told, []]
    assert notices(lambda: tvm_sched.compile(network(), X, target=ONE, records=folder, check=False)) == told


def test_nothing_is_told_of_kernels_that_nobody_measured(of_format, func, sch):
    folder = of_format(func, sch)
    options = {"target": ONE, "records": folder, "check": False}
    for image in (X, torch.zeros(1, 32, 7, 7)):  # on record, and of another problem
        assert notices(lambda image=image: tvm_sched.compile(network(), image, **options)) == []
