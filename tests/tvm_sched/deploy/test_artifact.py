"""Artifacts: a round trip through a file, a manifest that can be read anywhere, and every wrong file and input told in
one sentence.
"""

import json
import shutil
import struct
import subprocess
import sys
import tarfile
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from elftools.elf.elffile import ELFFile
from torch import nn
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import runtime, targets
from tvm_sched.deploy import artifact as artifacts
from tvm_sched.deploy import manifest as manifests
from tvm_sched.deploy import toolchain

E_MACHINE_AT = 18  # offset of e_machine in an ELF header
ARM, RISCV = 183, 243


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ]
    return prune(nn.Sequential(*layers), 16, 0.25).eval()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(1).standard_normal((2, 3, 12, 12), dtype="float32")


@pytest.fixture(scope="module")
def expected(network, x):
    with torch.no_grad():
        return network(torch.from_numpy(x)).numpy()


@pytest.fixture(scope="module")
def compiled(network, x):
    return tvm_sched.compile(network, torch.from_numpy(x))


@pytest.fixture(scope="module")
def saved(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "net.so"
    compiled.save(path)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copy(saved, tmp_path / "copy.so")


def refused(action, words):
    """The action raises a UserError of one line that holds the words."""
    with pytest.raises(UserError, match=words) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_a_process_that_does_nothing_else_loads_and_runs_it(saved, compiled):
    code = f"import tvm_sched; print(tvm_sched.load({str(saved)!r}).check())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == compiled.check()


def test_a_saved_artifact_computes_the_same_as_the_one_in_memory(compiled, saved, x, expected):
    loaded = tvm_sched.load(saved)
    assert np.array_equal(loaded(x), compiled(x))
    np.testing.assert_allclose(loaded(x), expected, rtol=0, atol=1e-5)
    assert loaded.manifest == compiled.manifest
    assert loaded.explain() == compiled.explain()


def test_results_are_the_callers_own(compiled, x):
    first = compiled(x)
    kept = first.copy()
    compiled(x + 1)
    assert np.array_equal(first, kept)


def test_results_of_many_calls_stay_what_they_were(compiled, x):
    results = [compiled(x * scale) for scale in range(20)]
    assert all(result.flags.writeable for result in results)
    results[3][:] = 0
    assert all(np.array_equal(result, compiled(x * scale)) for scale, result in enumerate(results) if scale != 3)
    last = compiled(x)
    del results
    assert np.array_equal(last, compiled(x))


def test_a_network_that_gives_its_input_back_gives_a_copy():
    x = np.ones((1, 3, 4, 4), "float32")
    artifact = tvm_sched.compile(nn.Flatten(), torch.from_numpy(x))
    first = artifact(x)
    artifact(x + 1)
    assert np.array_equal(first, x.reshape(1, -1))


def test_strided_input_is_read_as_it_looks(compiled, x):
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not last.flags.c_contiguous
    assert np.array_equal(compiled(last), compiled(x))
    assert np.array_equal(compiled(x[:, ::-1]), compiled(np.ascontiguousarray(x[:, ::-1])))


def test_read_only_input_is_taken(compiled, x):
    frozen = x.copy()
    frozen.flags.writeable = False
    assert np.array_equal(compiled(frozen), compiled(x))


def test_several_results_are_a_tuple(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 1)

        def forward(self, x):
            y = self.conv(x)
            return y, y.mean((2, 3))

    network, x = Two().eval(), torch.randn(1, 3, 4, 4)
    compiled = tvm_sched.compile(network, x)
    compiled.save(tmp_path / "two.so")
    with torch.no_grad():
        wanted = network(x)
    for output, want in zip(tvm_sched.load(tmp_path / "two.so")(x.numpy()), wanted, strict=True):
        np.testing.assert_allclose(output, want.numpy(), rtol=0, atol=1e-5)
    assert compiled.check() < 1e-5


def test_the_manifest_is_read_without_the_library_being_loaded(copy, compiled, monkeypatch):
    import tvm_ffi

    monkeypatch.setattr(tvm_ffi, "load_module", lambda *_: pytest.fail("loaded"))
    manifest, arch = manifests.read_manifest(copy)
    assert arch == targets.host().arch
    assert manifest == compiled.manifest
    assert manifest["inputs"] == [{"name": "input", "shape": [2, 3, 12, 12], "dtype": "float32"}]
    assert manifest["outputs"] == [{"name": "output", "shape": [2, 10], "dtype": "float32"}]
    assert [row["name"] for row in manifest["layers"]] == ["0", "2", "5"]


def test_what_the_user_adds_to_the_manifest_is_saved(network, x, tmp_path):
    compiled = tvm_sched.compile(network, torch.from_numpy(x))
    compiled.manifest["classes"] = ["zero", 'quote " and \\ backslash', "naïve"]
    compiled.save(tmp_path / "net.so")
    assert tvm_sched.load(tmp_path / "net.so").manifest["classes"] == ["zero", 'quote " and \\ backslash', "naïve"]


def test_the_check_compares_with_pytorchs_output(network, compiled):
    assert compiled.check() < 1e-5
    check = compiled.manifest["check"]
    given = np.random.default_rng(check["seed"]).standard_normal((2, 3, 12, 12), dtype="float32")
    with torch.no_grad():
        np.testing.assert_allclose(
            np.array(check["outputs"][0]), network(torch.from_numpy(given)).numpy().ravel(), atol=1e-6
        )


def test_the_check_finds_a_wrong_library(compiled):
    wrong = artifacts.Artifact(compiled._executable, json.loads(json.dumps(compiled.manifest)))
    wrong.manifest["check"]["outputs"][0][3] += 0.5
    assert wrong.check() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.zeros((1, 3, 12, 12), "float32"), r"\[2, 3, 12, 12\] of float32, not \[1, 3, 12, 12\] of float32"),
        (np.zeros((2, 3, 12), "float32"), r"not \[2, 3, 12\]"),
        (np.float32(1), "not float32"),
        (np.zeros((2, 3, 12, 12)), "of float64"),
        (np.zeros((2, 3, 12, 12), "uint8"), "of uint8"),
        (np.zeros((2, 3, 12, 12), ">f4"), "of >f4"),
        (torch.zeros(2, 3, 12), r"not a torch tensor, \[2, 3, 12\] of float32"),
        (torch.zeros(2, 3, 12, 12, device="meta"), "on meta"),
        (torch.zeros(2, 3, 12, 12).to_sparse(), "torch.sparse_coo"),
        ([[1.0]], "not list"),
        (None, "not None"),
    ],
    ids=str,
)
def test_a_wrong_input_is_told(compiled, wrong, words):
    refused(lambda: compiled(wrong), words)


def test_a_missing_file(tmp_path):
    refused(lambda: tvm_sched.load(tmp_path / "none.so"), "there is no file .*none.so")


def test_a_folder(tmp_path):
    refused(lambda: tvm_sched.load(tmp_path), "is a folder")


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not a library", b"\0" * 5000, b"\x7fELF" + b"\xff" * 500])
def test_a_file_that_is_no_library(tmp_path, content):
    (tmp_path / "net.so").write_bytes(content)
    refused(lambda: tvm_sched.load(tmp_path / "net.so"), "net.so is truncated or not a shared library")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_a_truncated_file_is_never_loaded(copy, share):
    whole = Path(copy).read_bytes()
    with open(copy, "r+b") as file:
        file.truncate(int(share * len(whole)))
    refused(lambda: tvm_sched.load(copy), "is truncated or not a shared library")


def test_a_foreign_library(tmp_path):
    import _ctypes

    refused(lambda: tvm_sched.load(_ctypes.__file__), "not one that 'subp compile' made")


def set_machine(path, machine):
    with open(path, "r+b") as file:
        file.seek(E_MACHINE_AT)
        file.write(struct.pack("<H", machine))


@pytest.mark.parametrize(("machine", "name"), [(ARM, "aarch64"), (RISCV, "EM_RISCV")])
def test_a_library_for_another_architecture_is_not_loaded_but_its_manifest_is_read(copy, machine, name):
    if targets.host().arch == name:
        pytest.skip("this machine is one")
    set_machine(copy, machine)
    refused(lambda: tvm_sched.load(copy), f"copy.so is compiled for {name} .*and this machine is")
    assert manifests.read_manifest(copy)[1] == name


def test_a_library_for_instructions_that_this_cpu_lacks_is_not_loaded(copy, monkeypatch):
    monkeypatch.setattr(manifests, "cpu_flags", lambda: set())
    refused(lambda: tvm_sched.load(copy), "this machine's CPU lacks ")


@pytest.mark.parametrize(("key", "value", "words"), [("format", 99, "manifest of format 99, this version reads 6")])
def test_a_manifest_of_another_version_is_refused(compiled, tmp_path, key, value, words):
    other = artifacts.Artifact(compiled._executable, compiled.manifest | {key: value}, targets.host())
    other.save(tmp_path / "net.so")
    refused(lambda: tvm_sched.load(tmp_path / "net.so"), words)


def test_a_damaged_manifest_is_refused(copy):
    content = Path(copy).read_bytes()
    at = content.index(b'{"format"')
    with open(copy, "r+b") as file:
        file.seek(at)
        file.write(b"#")
    refused(lambda: tvm_sched.load(copy), "the manifest in .* is no JSON")


def test_a_loaded_artifact_is_not_saved_again(saved, tmp_path):
    refused(lambda: tvm_sched.load(saved).save(tmp_path / "again.so"), "copy that file instead")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_survives_a_save_that_fails(compiled, tmp_path, monkeypatch):
    path = tmp_path / "net.so"
    path.write_bytes(b"precious")
    monkeypatch.setattr(toolchain, "linker", lambda target, cc=None: ["false"])
    refused(lambda: compiled.save(path), "false cannot link")
    monkeypatch.undo()
    monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    refused(lambda: compiled.save(path), "no compiler here links")
    assert path.read_bytes() == b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["net.so"]


def test_saving_into_a_missing_folder_is_told(compiled, tmp_path):
    refused(lambda: compiled.save(tmp_path / "none" / "net.so"), "none")


def test_a_file_that_is_replaced_while_in_use_is_loaded_anew(compiled, copy, network, x):
    running = tvm_sched.load(copy)
    other = tvm_sched.compile(nn.Sequential(network, nn.Sigmoid()), torch.from_numpy(x))
    other.save(copy)
    assert np.array_equal(running(x), compiled(x))
    assert np.array_equal(tvm_sched.load(copy)(x), other(x))
    assert not np.array_equal(other(x), compiled(x))


@pytest.mark.parametrize("name", ["net", "net.bin", "a net with spaces 'and quotes'.so"])
def test_any_name_will_do(compiled, tmp_path, x, name):
    compiled.save(tmp_path / name)
    assert np.array_equal(tvm_sched.load(str(tmp_path / name))(x), compiled(x))


def test_code_for_cortex_a76_is_saved_as_object_files(network, x, tmp_path):
    artifact = tvm_sched.compile(network, torch.from_numpy(x), target="cortex-a76")
    artifact.save(tmp_path / "net.tar")
    with tarfile.open(tmp_path / "net.tar") as archive:
        archive.extractall(tmp_path / "objects", filter="data")
    machines = [ELFFile(BytesIO(path.read_bytes()))["e_machine"] for path in (tmp_path / "objects").rglob("*.o")]
    assert machines and set(machines) == {"EM_AARCH64"}
    assert (artifact.manifest["arch"], artifact.manifest["target"]) == ("aarch64", "cortex-a76")
    if targets.host().arch != "aarch64":
        refused(lambda: artifact(x), "compiled for aarch64")


def test_avx2_code_runs_here_and_says_so(network, x, expected, tmp_path):
    if not {"avx2", "fma"} <= targets.cpu_flags():
        pytest.skip("this machine has no AVX2")
    artifact = tvm_sched.compile(network, torch.from_numpy(x), target="x86-avx2", threads=1)
    artifact.save(tmp_path / "net.so")
    loaded = tvm_sched.load(tmp_path / "net.so")
    np.testing.assert_allclose(loaded(x), expected, rtol=0, atol=1e-5)
    assert (loaded.manifest["target"], loaded.manifest["threads"]) == ("x86-avx2", 1)


def test_threads_beyond_what_the_process_has_are_refused(saved, network, x):
    beyond = runtime.most_threads() + 1
    refused(lambda: tvm_sched.load(saved, threads=beyond), f"{beyond} threads asked for")
    refused(lambda: tvm_sched.compile(network, torch.from_numpy(x), threads=beyond), f"{beyond} threads asked for")
    refused(
        lambda: tvm_sched.compile(network, torch.from_numpy(x), target="cortex-a76", threads=0), "0 threads asked for"
    )


def test_code_planned_for_more_threads_than_there_are_runs_on_those_there_are(network, x, expected, tmp_path):
    if targets.host().family not in ("x86-avx2", "x86-avx512"):
        pytest.skip("needs AVX2")
    artifact = tvm_sched.compile(network, torch.from_numpy(x), target="x86-avx2", threads=64)
    artifact.save(tmp_path / "net.so")
    loaded = tvm_sched.load(tmp_path / "net.so")
    assert loaded.manifest["threads"] == 64
    np.testing.assert_allclose(loaded(x), expected, rtol=0, atol=1e-5)


def test_kernels_are_counted_by_where_their_schedules_come_from(compiled):
    layers = [
        {"function": "conv", "schedule": "record"},
        {"function": "conv", "schedule": "record"},  # another call of the same
        {"function": "conv1", "schedule": "record for float32 weights"},
        {"function": "dense", "schedule": "default: 1x1 pixels x 1 groups, 1 bands"},
        {"function": "dense1", "schedule": "default: 1x2 pixels x 1 groups, 1 bands"},
        {"function": "", "schedule": "none: folded away"},
    ]
    rows = [compiled.manifest["layers"][0] | layer for layer in layers]
    told = artifacts.Artifact(None, compiled.manifest | {"layers": rows}).schedules()
    assert told == {"record": 1, "record for float32 weights": 1, "default": 2}


def test_explain_is_a_table_of_the_layers(compiled):
    from rich.console import Console

    console = Console(width=200, record=True, file=StringIO())
    console.print(compiled.explain_table())
    text = console.export_text()
    assert all(row.name in text and row.kernel in text for row in compiled.explain())
    assert "3/12" not in text and "4/16" in text  # kept of all, of the 1x1 convolution
