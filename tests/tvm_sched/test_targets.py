"""Targets: names, what TVM is told, and what is read from the machine."""

import os
import platform

import pytest

from tvm_sched import runtime, targets
from tvm_sched.errors import UserError


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
    with pytest.raises(UserError, match="unknown target 'cortex-a53'; known targets: host, x86-avx2, x86-avx512, cortex-a76"):
        targets.get("cortex-a53")


@pytest.mark.parametrize(
    ("name", "lanes", "registers"), [("x86-avx2", 256 // 32, 16), ("x86-avx512", 512 // 32, 32), ("cortex-a76", 128 // 32, 32)]
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
    monkeypatch.setattr(targets, "cpu_flags", lambda: flags)
    assert targets.host.__wrapped__().family == family


@pytest.mark.parametrize(("machine", "flags"), [("x86_64", {"sse4_2"}), ("riscv64", set())])
def test_a_cpu_without_a_kernel_is_refused(monkeypatch, machine, flags):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(targets, "cpu_flags", lambda: flags)
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
    assert targets.host_caches(tmp_path) == {"l1_bytes": 48 * 1024, "l1_ways": 12, "l2_bytes": 2 * 1024**2}


def test_caches_that_the_system_does_not_tell_are_left_out(tmp_path):
    assert targets.host_caches(tmp_path / "none") == {}
    (tmp_path / "index0").mkdir()
    assert targets.host_caches(tmp_path) == {}
