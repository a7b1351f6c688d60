"""Targets: names, what TVM is told, and what is read from the machine."""

import json
import platform
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import runtime, targets
from tvm_sched.targets import file as target_file
from tvm_sched.targets import lookup
from tvm_sched.targets.costs import FIGURES, RANGES


@pytest.mark.parametrize("name", targets.names())
def test_every_name_gives_a_target_that_tvm_takes(name):
    target = targets.get(name)
    tvm_target = target.tvm()
    assert target.name == name
    assert tvm_target.kind.name == "llvm"
    assert int(tvm_target.attrs["num-cores"]) == target.cores
    assert tvm_target.attrs["mtriple"].startswith(target.arch)


def test_a_target_is_its_own_name():
    assert targets.get(targets.CORTEX_A76) is targets.CORTEX_A76


def test_unknown_names_are_told_with_the_known_ones():
    with pytest.raises(
        UserError,
        match=r"unknown target 'cortex-a5'; known targets: host, x86-avx2, x86-avx512, .*cortex-a76, "
        r".*or a file NAME\.json",
    ):
        targets.get("cortex-a5")


@pytest.mark.parametrize(
    ("name", "lanes", "registers"),
    [
        ("x86-avx2", 256 // 32, 16),
        ("x86-avx512", 512 // 32, 32),
        ("x86-avx512-vnni", 512 // 32, 32),
        *(
            (name, 128 // 32, 32)
            for name in ("cortex-a76", "cortex-a72", "cortex-a55", "cortex-a53", "neoverse-n1", "apple-m1")
        ),
    ],
)
def test_vector_registers_are_the_instruction_sets(name, lanes, registers):
    assert (targets.get(name).lanes, targets.get(name).registers) == (lanes, registers)


def test_the_host_has_this_machines_architecture_and_cores():
    host = targets.host()
    assert host.arch == platform.machine()
    assert host.cores == runtime.most_threads()
    assert host.family in targets.NAMED
    assert set(host.cpu_flags) <= targets.cpu_flags()


@pytest.mark.parametrize(
    ("flags", "family"),
    [
        ({"avx2", "fma", "avx512f", "avx512vl", "avx512dq", "avx512bw"}, "x86-avx512"),
        ({"avx2", "fma", "avx512f"}, "x86-avx2"),
        ({"avx2", "fma"}, "x86-avx2"),
    ],
)
def test_the_host_is_of_the_widest_family_whose_instructions_it_has(monkeypatch, flags, family):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(lookup, "cpu_flags", lambda: flags)
    assert targets.host.__wrapped__().family == family


@pytest.mark.parametrize(("machine", "flags"), [("x86_64", {"sse4_2"}), ("riscv64", set())])
def test_a_cpu_without_a_kernel_is_refused(monkeypatch, machine, flags):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(lookup, "cpu_flags", lambda: flags)
    with pytest.raises(UserError, match=machine):
        targets.host.__wrapped__()


def write_cache(root, index, level, kind, size, ways):
    (root / index).mkdir()
    for file, text in (("level", level), ("type", kind), ("size", size), ("ways_of_associativity", ways)):
        (root / index / file).write_text(f"{text}\n")


def test_caches_are_read_from_the_system(tmp_path):
    write_cache(tmp_path, "index0", 1, "Data", "48K", 12)
    write_cache(tmp_path, "index1", 1, "Instruction", "64K", 16)
    write_cache(tmp_path, "index2", 2, "Unified", "2M", 16)
    write_cache(tmp_path, "index3", 3, "Unified", "96M", 16)
    assert targets.host_caches(tmp_path) == {
        "l1_bytes": 48 * 1024,
        "l1_ways": 12,
        "l2_bytes": 2 * 1024**2,
        "last_cache_bytes": 96 * 1024**2,
    }


def test_caches_that_the_system_does_not_tell_are_left_out(tmp_path):
    assert targets.host_caches(tmp_path / "none") == {}
    (tmp_path / "index0").mkdir()
    assert targets.host_caches(tmp_path) == {}


@pytest.mark.parametrize(
    ("cpu", "name"), [("cortex-a72", "cortex-a72"), ("cortex-a78", "cortex-a76"), ("generic", "cortex-a76")]
)
def test_an_arm_host_is_the_named_core_that_llvm_knows_it_for(monkeypatch, cpu, name):
    from tvm.target import codegen

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(codegen, "llvm_get_system_cpu", lambda: cpu)
    assert targets.host.__wrapped__().family == name


@pytest.mark.parametrize(
    ("name", "family"), [("x86-avx512-vnni", "x86-avx512"), ("neoverse-n1", "cortex-a76"), ("cortex-a53", "cortex-a53")]
)
def test_related_cores_share_records(name, family):
    assert targets.get(name).family == family


def described(tmp_path, content) -> str:
    file = tmp_path / "my_cpu.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def test_a_file_changes_a_named_target(tmp_path):
    changes = {"cpu": "cortex-a78", "l2_bytes": 2**19, "cores": 8, "features": ["+neon", "+dotprod"]}
    target = targets.get(described(tmp_path, {"base": "cortex-a76"} | changes))
    expected = replace(
        targets.CORTEX_A76, name="my_cpu", cpu="cortex-a78", l2_bytes=2**19, cores=8, features=("+neon", "+dotprod")
    )
    assert target == expected
    assert str(target.tvm().attrs["mcpu"]) == "cortex-a78"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold one object of fields"),
        ({"cores": 4}, "lacks 'base', the named target whose figures it changes: one of x86-avx2, "),
        ({"base": "z80"}, "'base' must be one of x86-avx2, .* not \"z80\""),
        ({"base": "cortex-a76", "colour": 1}, "unknown field 'colour'; known fields: base, family, triple, "),
        ({"base": "cortex-a76", "cpu": ""}, "'cpu' must be a text that is not empty, not \"\""),
        ({"base": "cortex-a76", "cpu": "cortex-z1"}, "LLVM knows no aarch64 CPU 'cortex-z1'"),
        ({"base": "cortex-a76", "lanes": 5}, "'lanes' must be one of 4, 8, 16, not 5"),
        ({"base": "cortex-a76", "cores": 0}, "'cores' must be a whole number from 1 to 1024, not 0"),
        ({"base": "cortex-a76", "cores": True}, "'cores' must be a whole number from 1 to 1024, not true"),
        ({"base": "cortex-a76", "in_order": 1}, "'in_order' must be one of True, False, not 1"),
        ({"base": "cortex-a76", "features": "+neon"}, "'features' must be a list of texts, not"),
        ({"base": "cortex-a76", "triple": "riscv64-linux-gnu"}, "'triple' must be an LLVM triple of x86_64 or aarch64"),
        (
            {"base": "cortex-a76", "triple": "x86_64-linux-gnu"},
            "'base', 'family' and 'triple' must be of one architecture",
        ),
        (
            {"base": "cortex-a76", "l1_ways": 3},
            "'l1_bytes' must be a whole number of lines of 64 bytes in each of its 3 ways",
        ),
    ],
)
def test_each_field_of_a_file_is_checked(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        targets.get(described(tmp_path, content))


def test_a_file_states_some_costs_and_the_others_are_the_named_targets(tmp_path):
    costs = {"measured_on": "Cortex-A78", "far_bytes_per_cycle": 4.5, "lanes_step_cycles": 1}
    target = targets.get(described(tmp_path, {"base": "cortex-a76", "costs": costs}))
    assert target.costs == replace(targets.CORTEX_A76.costs, **costs)
    assert replace(target, name="cortex-a76", costs=targets.CORTEX_A76.costs) == targets.CORTEX_A76


@pytest.mark.parametrize(
    ("costs", "words"),
    [
        ([], "'costs' must be an object of figures, not \\[\\]"),
        ({"colour": 1}, "unknown field 'costs.colour'; known fields: measured_on, l2_bytes_per_cycle, "),
        ({"measured_on": ""}, "'costs.measured_on' must be a text that is not empty, not \"\""),
        ({"l2_bytes_per_cycle": 0}, "'costs.l2_bytes_per_cycle' must be a number from 0.01 to 4096, not 0"),
        ({"cache_share": 1.5}, "'costs.cache_share' must be a number from 0.01 to 1, not 1.5"),
        ({"tile_cycles": -1}, "'costs.tile_cycles' must be a number from 0 to 10000, not -1"),
        ({"tile_cycles": float("nan")}, "'costs.tile_cycles' must be a number .* not NaN"),
        ({"tile_cycles": float("inf")}, "'costs.tile_cycles' must be a number .* not Infinity"),
        ({"tile_cycles": True}, "'costs.tile_cycles' must be a number .* not true"),
        ({"tile_cycles": "10"}, "'costs.tile_cycles' must be a number .* not \"10\""),
    ],
)
def test_each_cost_of_a_file_is_checked(tmp_path, costs, words):
    with pytest.raises(UserError, match=words):
        targets.get(described(tmp_path, {"base": "cortex-a76", "costs": costs}))


@pytest.mark.parametrize("name", targets.names())
def test_costs_of_all_targets_are_such_as_a_file_may_state(name):
    costs = targets.get(name).costs
    for figure, each in FIGURES.items():
        least, most = RANGES[each.metadata["unit"]]
        assert least <= getattr(costs, figure) <= most


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cores": 3, "features": ("+neon", "+dotprod")},
        {"costs": replace(targets.CORTEX_A76.costs, measured_on="a board", tile_cycles=7.5)},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [*targets.NAMED, "host"])
def test_a_target_is_read_back_from_its_description(tmp_path, name, changes):
    target = replace(targets.get(name), name="my_cpu", **changes)
    assert targets.get(described(tmp_path, target_file.content_of(target))) == target


def test_a_description_holds_only_what_the_nearest_named_target_does_not(tmp_path):
    target = replace(targets.get("cortex-a55"), costs=replace(targets.get("cortex-a55").costs, tile_cycles=7.5))
    assert target_file.content_of(target) == {"base": "cortex-a55", "costs": {"tile_cycles": 7.5}}


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*none\.json"):
        targets.get(str(tmp_path / "none.json"))


DOCS = (Path(__file__).resolve().parents[3] / "docs" / "targets.md").read_text()


def test_every_field_of_a_file_is_documented():
    assert all(f"| `{field}` |" in DOCS for field in ("base", *target_file.RULES))


@pytest.mark.parametrize("figure", FIGURES)
def test_the_table_of_costs_says_what_their_fields_say(figure):
    unit, meaning = FIGURES[figure].metadata["unit"], FIGURES[figure].metadata["meaning"]
    assert f"| `{figure}` | {unit} | {FIGURES[figure].default:g} | {meaning} |" in DOCS


@pytest.mark.parametrize(
    ("name", "magic"), [("apple-m1", b"\xcf\xfa\xed\xfe"), ("cortex-a53", b"\x7fELF"), ("x86-avx512-vnni", b"\x7fELF")]
)
def test_object_files_are_the_systems(name, magic, tmp_path):
    module, x = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 1), torch.nn.ReLU()).eval(), torch.zeros(1, 16, 4, 4)
    tvm_sched.compile(module, x, target=name, threads=1).save(tmp_path / "net.tar")
    with tarfile.open(tmp_path / "net.tar") as archive:
        objects = [archive.extractfile(member).read(4) for member in archive if member.name.endswith(".o")]
    assert magic in objects
