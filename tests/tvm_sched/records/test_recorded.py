"""Records of other numbers of threads: used where they give each thread equal work, told as what they are, and else
left alone.
"""

import re
import warnings
from dataclasses import astuple, replace

import pytest
import torch
import tvm_ffi
from torch import nn
from tvm import IRModule, tirx
from tvm.s_tir import Schedule
from tvm.script import tirx as T
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
from tvm_sched.records.recorded import Recorded, shares_equally, usable
from tvm_sched.tuning.tiles import Space, tasks_of

ONE, TWO = (replace(targets.X86_AVX2, cores=cores) for cores in (1, 2))
X = torch.zeros(1, 32, 6, 6)


def adding(*extents: int):
    """A function with a loop nest for each extent, parallel where it is given as positive, else serial."""
    rows = max(map(abs, extents))
    first, second = (extents * 2)[:2]

    @T.prim_func(s_tir=True)
    def add(a: T.Buffer((rows, 8), "float32"), b: T.Buffer((rows, 8), "float32")):
        for i in T.parallel(first) if first > 0 else T.serial(-first):
            for j in range(8):
                b[i, j] = a[i, j] + 1.0
        for i in T.parallel(second) if second > 0 else T.serial(-second):
            for j in range(8):
                b[i, j] = b[i, j] * 2.0

    return add


@pytest.mark.parametrize(
    ("extents", "threads", "equal"),
    [
        *[((6,), 2, True), ((6,), 4, False), ((6,), 1, True), ((1,), 2, False), ((6, 3), 2, False), ((6, 3), 3, True)],
        *[((-5,), 2, True), ((-5, 4), 2, True), ((-4, 5), 2, False), ((2,), 4, False)],
    ],
)
def test_equal_work_is_a_whole_number_of_steps_for_each_thread(extents, threads, equal):
    assert shares_equally(adding(*extents), threads) == equal


def on_record(threads: int, asked: int, *extents: int) -> Recorded:
    return Recorded(threads, threads == asked, False, 1.0, lambda: Schedule(IRModule({"main": adding(*extents)})))


@pytest.mark.parametrize(
    ("extents_of", "asked", "chosen"),
    [
        ({1: (6,), 2: (3,)}, 2, 2),  # measured on as many: used however it shares
        ({1: (6,), 4: (8,)}, 2, 1),
        ({1: (5,), 4: (8,)}, 2, 4),  # the nearest one does not share equally
        ({1: (5,), 4: (7,)}, 2, None),
        ({1: (6,), 3: (6,)}, 2, 1),  # as near: fewer threads
        ({1: (16,)}, 8, 1),
        ({1: (16,)}, 16, None),  # too far
        ({}, 2, None),
    ],
)
def test_the_nearest_record_that_shares_equally_is_used(extents_of, asked, chosen):
    found = usable([on_record(threads, asked, *extents) for threads, extents in extents_of.items()], asked)
    assert (found and found.threads) == chosen


def test_what_was_measured_is_used_before_what_was_estimated():
    measured, estimated_here = on_record(1, 4, 8), replace(on_record(4, 4, 4), estimated=True)
    assert usable([estimated_here, measured], 4) is measured
    assert usable([estimated_here, on_record(1, 4, 6)], 4) is estimated_here  # which does not share equally


def test_a_record_says_what_it_is_of():
    words = [replace(on_record(threads, 2, 4), estimated=guess).words for guess in (0, 1) for threads in (1, 2, 4)]
    assert words[:3] == ["record of 1 thread", "record", "record of 4 threads"]
    assert words[3:] == ["estimate of 1 thread", "estimate", "estimate of 4 threads"]


def test_seconds_are_known_of_the_threads_measured_on_only():
    assert on_record(1, 2, 4).seconds(ghz=2.0) is None
    assert on_record(2, 2, 4).seconds(ghz=2.0) == 1.0
    assert replace(on_record(2, 2, 4), estimated=True).seconds(ghz=2.0) == 0.5


def network() -> nn.Module:
    torch.manual_seed(0)
    return prune(nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU()), 16, 0.25).eval()


@pytest.fixture(scope="module")
def func():
    (task,) = tasks_of(pipeline.fused(torch_export.from_torch(network(), X), Compilation(ONE)))
    return task.func


def parallel_extents(sch: Schedule) -> list[int]:
    """As the schedule's text has them."""
    return [int(extent) for extent in re.findall(r"T\.parallel\((\d+)", sch.mod["main"].script())]


@pytest.fixture(scope="module")
def schedule_of(func):
    """equal -> a schedule for one thread that shares the work equally between two, or does not."""
    found = {}
    for sch in Space(func, ONE).schedules:
        extents = parallel_extents(sch)
        assert extents
        found.setdefault(all(extent % 2 == 0 for extent in extents), sch)
    return found


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


@pytest.fixture(scope="module")
def opened(of_format, func, schedule_of):
    """opened(equal, target): records of one thread, of a schedule that shares equally or does not, in both formats."""
    folders = {equal: of_format(func, sch) for equal, sch in schedule_of.items()}
    return lambda equal, target: of_format.opens(folders[equal], target)


def test_two_threads_use_a_record_of_one_that_shares_equally(opened, func, schedule_of):
    records = opened(True, TWO)
    found = records.lookup(func)
    assert found.words == "record of 1 thread"
    assert records.own(func) is None
    assert found.schedule.mod["main"].script() == schedule_of[True].mod["main"].script()


def test_two_threads_do_not_use_a_record_of_one_that_shares_unequally(opened, func):
    assert opened(False, TWO).lookup(func) is None
    assert opened(False, ONE).lookup(func).words == "record"
    assert opened(False, ONE).own(func).seconds(ghz=1.0) == 1e-3


def test_an_estimated_tile_is_scheduled_for_the_threads_asked_for(func, tmp_path):
    mod = workload(func)
    kernel = kernel_of(func)
    tiles = kernel.tiles(kernel.problem(Schedule(mod)), TWO)
    scheduled = zip(tiles, Space(func, TWO).schedules, strict=True)
    tile, expected = next(each for each in scheduled if all(extent % 2 == 0 for extent in parallel_extents(each[1])))
    write_estimates(tmp_path, [estimated(mod, ONE, 1e-3, list(astuple(tile)))])
    found = BestRecords(tmp_path, TWO).lookup(func)
    assert found.words == "estimate of 1 thread"
    assert found.schedule.mod["main"].script() == expected.mod["main"].script()


def test_compiling_for_two_threads_tells_of_records_of_one(opened):
    for equal, words in ((True, "record of 1 thread"), (False, "default: ")):
        selection = pipeline.lower(torch_export.from_torch(network(), X), Compilation(TWO, opened(equal, TWO)))
        (layer,) = selection.choices
        assert layer.schedule.startswith(words)


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


def test_nothing_is_told_of_kernels_that_nobody_measured(of_format, func, schedule_of):
    folder = of_format(func, schedule_of[True])
    options = {"target": ONE, "records": folder, "check": False}
    for image in (X, torch.zeros(1, 32, 7, 7)):  # on record, and of another problem
        assert notices(lambda image=image: tvm_sched.compile(network(), image, **options)) == []
