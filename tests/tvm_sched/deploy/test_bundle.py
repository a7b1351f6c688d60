"""Bundles run without Python what artifacts run with it, and say in one sentence what is wrong."""

import io
import json
import os
import resource
import shutil
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
import torch
import write_fixtures
from torch import nn
from zeros import prune

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.deploy import bundle
from tvm_sched.signature import check_inputs

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ here to build the runner with")


class Two(nn.Module):
    """Winograd's convolution, whose weights are prepared; images so large that a batch goes through in parts; two
    outputs.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x):
        y = self.conv(self.stem(x).relu())
        return y.mean((2, 3)), y[:, :2]


@pytest.fixture(scope="module")
def compiled():
    """An artifact on a batch of two images, for one thread."""
    torch.manual_seed(0)
    return tvm_sched.compile(prune(Two(), 16, 0.25).eval(), torch.zeros(2, 3, 112, 112), threads=1)


@pytest.fixture(scope="module")
def library(compiled, tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "net.so"
    compiled.save(path)
    return path


@pytest.fixture(scope="module")
def contents(library):
    return bundle.contents(library, "g++")[0]


@pytest.fixture
def unpacked(contents, tmp_path):
    return put(contents, tmp_path)


def put(contents, folder):
    """The bundle of these files, 'net', in a folder; where it is."""
    with tarfile.open(fileobj=io.BytesIO(bundle.archive(contents, "net"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "net"


def run(folder, *arguments, code=0):
    """What run.sh prints, on stdout or, where it refuses, on stderr."""
    done = subprocess.run([folder / "run.sh", *map(str, arguments)], capture_output=True, text=True, cwd=folder.parent)
    assert done.returncode == code, done.stderr
    assert bool(done.stdout) != bool(done.stderr)
    return done.stdout or done.stderr


def test_the_network_is_one_that_asks_all_of_the_runner(compiled):
    assert (compiled.manifest["parts"], compiled.manifest["prepare"]) == (2, "prepare")


def test_outputs_are_the_artifacts(unpacked, compiled, tmp_path):
    x = np.random.default_rng(1).standard_normal((2, 3, 112, 112), dtype="float32")
    np.save(tmp_path / "x.npy", x)
    said = run(unpacked, "x.npy", "-o", tmp_path / "y.npz")
    file = f"{tmp_path}/y.npz"
    assert said == f"{file}: 'output_0', 2x64 of <f4\n{file}: 'output_1', 2x2x112x112 of <f4\n"
    made = np.load(file)
    assert made.files == ["output_0", "output_1"]
    for got, want in zip(made.values(), compiled(x), strict=True):
        assert np.array_equal(got, want)


def test_the_check_passes_and_tells_the_artifacts_error(unpacked, compiled):
    assert run(unpacked, "--check").startswith("net: check ok: max abs error ")
    said = json.loads(run(unpacked, "--check", "--json"))
    assert said["check"] == "ok"
    assert said["max_abs_error"] == pytest.approx(compiled.check(), abs=1e-9)


@pytest.mark.parametrize("release", sorted(path.name for path in write_fixtures.FIXTURES.iterdir()))
def test_todays_program_runs_the_network_of_an_earlier_releases_bundle(contents, release, tmp_path):
    """Its description and arrays are read; what the bundle itself brings runs as it did."""
    if not targets.runs_here(targets.get(write_fixtures.TARGET)):
        pytest.skip("this machine lacks its instructions")
    folder = write_fixtures.FIXTURES / release
    old = folder / write_fixtures.BUNDLE
    files = contents | {str(file.relative_to(old)): file.read_bytes() for file in old.rglob("*") if file.is_file()}
    unpacked = put(files | {"net.so": (folder / "net.so").read_bytes()}, tmp_path)
    assert run(unpacked, "--check").startswith("net: check ok: max abs error ")


@pytest.mark.parametrize(("wrong", "error"), [(0.25, 0.25), (np.nan, None)])
def test_a_wrong_output_fails_the_check(unpacked, wrong, error):
    path = unpacked / "check" / "outputs.npz"
    expected = dict(np.load(path))
    expected["output_1"][7] += wrong
    np.savez(path, **expected)
    assert run(unpacked, "--check", code=1).startswith("net: check FAILED: ")
    said = json.loads(run(unpacked, "--check", "--json", code=1))
    assert (said["check"], said["output"]) == ("failed", "output_1")
    assert said["max_abs_error"] == (error if error is None else pytest.approx(error, abs=1e-3))


def test_a_benchmark_tells_times_and_the_machine(unpacked):
    said = json.loads(run(unpacked, "--bench", "--seconds", 0, "--json"))
    assert 0 < said["min_ms"] <= said["median_ms"] <= said["p90_ms"]
    assert (said["bundle"], said["calls"], said["threads"]) == ("net", 10, 1)
    assert run(unpacked, "--bench", "--seconds", 0).startswith("net: median ")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core here")
def test_two_threads_compute_the_same(unpacked):
    first, second = sorted(os.sched_getaffinity(0))[:2]
    threads = ("--threads", 2, "--cores", f"{first},{second}")
    assert json.loads(run(unpacked, "--bench", "--seconds", 0, "--json", *threads))["threads"] == 2
    assert run(unpacked, "--check", *threads).startswith("net: check ok: ")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="one core here")
def test_threads_without_work_do_not_delay_the_end(unpacked, monkeypatch):
    first, second = sorted(os.sched_getaffinity(0))[:2]

    def cpu_seconds(yields: str | None) -> float:
        monkeypatch.delenv("TVM_THREAD_POOL_SPIN_COUNT", raising=False)
        if yields:
            monkeypatch.setenv("TVM_THREAD_POOL_SPIN_COUNT", yields)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(unpacked, "--check", "--threads", 2, "--cores", f"{first},{second}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    work, most = cpu_seconds("1"), cpu_seconds("3000000")  # the user's own number holds: 3,000,000 yields take a second
    assert cpu_seconds(None) - work < 0.05 * (most - work)  # TVM's own, 300,000, would take a tenth


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((1, 3, 112, 112), "float32"), "an array of 1x3x112x112 of <f4, the network takes 2x3x112x112 of <f4"),
        (np.zeros((2, 3, 112, 112)), "an array of 2x3x112x112 of <f8, the network takes 2x3x112x112 of <f4 as its"),
        (np.zeros((2, 3, 112, 112), ">f4"), "holds '>f4', which are no numbers that networks take"),
        (np.zeros(2, "complex64"), "holds '<c8', which"),
        (np.asfortranarray(np.zeros((2, 3, 112, 112), "float32")), "is in Fortran's order"),
        (np.zeros((), "float32"), "an array of 1 of <f4"),
    ],
)
def test_a_wrong_input_is_told(unpacked, tmp_path, array, words):
    said = run(unpacked, save(tmp_path / "x.npy", array), "-o", "y.npz", code=2)
    assert words in said and said.startswith("run.sh: ") and said.count("\n") == 1
    assert not (tmp_path / "y.npz").exists()


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xffabc", b"P6 image" * 9])
def test_a_file_that_is_no_array_is_told(unpacked, tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    assert run(unpacked, "x.npy", "-o", "y.npz", code=2).count("\n") == 1


def test_a_truncated_input_is_told(unpacked, tmp_path):
    path = save(tmp_path / "x.npy", np.zeros((2, 3, 112, 112), "float32"))
    path.write_bytes(path.read_bytes()[:-1])
    assert "is truncated" in run(unpacked, path, "-o", "y.npz", code=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "usage: run.sh"),
        (("--wrong",), "usage: run.sh"),
        (("--check", "--bench"), "give one of"),
        (("none.npy", "-o", "y.npz"), "there is no file none.npy"),
        (("none.npz", "-o", "y.npz"), "there is no file none.npz"),
        (("none.npy", "-o", "y.npy"), "gives 2 outputs (output_0, output_1): write them to a .npz file"),
        (("none.npy",), "-o OUTPUT goes with INPUT"),
        (("--check", "--threads", "0"), "--threads takes a number from 1, not 0"),
        (("--bench", "--seconds", "2s"), "--seconds takes a number from 0, not 2s"),
        (("--bench", "--seconds"), "--seconds needs a value"),
        (("--check", "--threads", "99999"), "99999 threads asked for, and cores "),
        (("--check", "--cores", "99999"), "core 99999 is not one that may be used here"),
        (("--check", "--cores", "big"), "--cores takes a list such as 4-7"),
    ],
)
def test_a_wrong_command_line_is_told(unpacked, arguments, words):
    assert words in run(unpacked, *arguments, code=2)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(bundle.summed(text.rpartition("checksum ")[0].replace(old, new)))


def test_a_machine_of_another_architecture_is_told(unpacked):
    edit(unpacked / "network.txt", f"arch {targets.host().arch}", "arch riscv64")
    assert "this bundle is for riscv64, and this system is " in run(unpacked, "--check", code=2)


def test_a_processor_that_lacks_instructions_is_told(unpacked):
    edit(unpacked / "network.txt", "cpu_flags", "cpu_flags sve9")
    assert "this machine's CPU lacks sve9" in run(unpacked, "--check", code=2)


def test_a_damaged_bundle_is_told(unpacked):
    (unpacked / "net.so").write_bytes(b"")
    assert "net.so is damaged: its checksum is wrong" in run(unpacked, "--check", code=2)
    (unpacked / "network.txt").write_text(f"arch {targets.host().arch}\n")
    assert "unpack the bundle again" in run(unpacked, "--check", code=2)


def test_what_the_runner_reads(compiled):
    manifest = compiled.manifest | {"cpu_flags": ["asimd", "asimddp"], "target": "some-core", "threads": 4}
    manifest |= {"memory": {"weights": 8 << 20}, "check": {"seed": 0, "outputs": [[0.5, -4.0], [0.5]]}, "prepare": None}
    lines = (
        "format 3\narch aarch64\nlibrary 907060870\ntarget some-core\ncpu_flags asimd asimddp\n"
        "threads 4\nparts 2\nprepare\nhuge_pages 1\n"
        "input x <f4 0 2 3 112 112\noutput output_0 <f4 0.004 2 64\noutput output_1 <f4 0.001 2 2 112 112\n"
    )
    assert bundle.description(manifest, "aarch64", b"hello") == f"{lines}checksum {zlib.crc32(lines.encode())}\n"


def test_the_check_input_is_the_manifests(compiled, contents):
    assert np.array_equal(
        np.load(io.BytesIO(contents["check/inputs.npz"]))["x"], check_inputs(compiled.signature.inputs, 0)[0]
    )


def test_an_archive_depends_on_its_files_alone():
    files = {"b": b"2", "run.sh": b"#!", "a": b"1" * 1000}
    made = bundle.archive(files, "net")
    assert made == bundle.archive(dict(reversed(files.items())), "net")
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        members = [(each.name, each.mode, each.mtime, each.uid, each.gid) for each in archive]
    assert members == [("net/a", 0o644, 0, 0, 0), ("net/b", 0o644, 0, 0, 0), ("net/run.sh", 0o755, 0, 0, 0)]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"versions": {"tvm": "0.1"}}, "was compiled with TVM 0.1, and this is "),
    ],
)
def test_networks_that_cannot_be_bundled(compiled, changed, words):
    with pytest.raises(UserError, match=words):
        bundle.require_runnable(compiled.manifest | changed, "net.so")


def test_a_compiler_that_fails_is_told(library):
    with pytest.raises(UserError, match="false cannot build the runner: exit code 1"):
        bundle.contents(library, "false")


MACHINE = """
#include <cstdio>
#include "machine.h"
int main(int, char** words) {
  const std::vector<int> cores = {0, 1, 2, 3, 4, 5, 6, 7};
  const machine::Clock now = machine::clock({4, 5}, words[1]);
  std::printf("%s %g %g %g", machine::words(machine::big(cores, words[1])).c_str(), now.mhz, now.most_mhz, now.celsius);
}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A program that prints what it sees of a board whose system files are under a folder: big cores, MHz of cores 4
    and 5, the most, and Celsius.
    """
    folder = tmp_path_factory.mktemp("machine")
    (folder / "main.cc").write_text(MACHINE)
    subprocess.run(
        [
            "g++",
            "-std=c++17",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{bundle.SOURCES}",
            folder / "main.cc",
            "-o",
            folder / "main",
        ],
        check=True,
    )
    return lambda root: subprocess.run(
        [folder / "main", root], check=True, capture_output=True, text=True
    ).stdout.split()


def board(root, file, values):
    for core, value in enumerate(values):
        path = root / f"sys/devices/system/cpu/cpu{core}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")


RK3588 = [530] * 4 + [1024] * 4  # cpu_capacity of four Cortex-A55 and four A76


def test_the_big_cores_are_found_by_capacity_or_by_frequency(machine, tmp_path):
    assert machine(tmp_path / "none")[0] == "0-7"
    board(tmp_path, "cpufreq/cpuinfo_max_freq", [1_800_000] * 4 + [2_256_000, 2_256_000, 2_400_000, 2_400_000])
    assert machine(tmp_path)[0] == "4-7"
    board(tmp_path, "cpu_capacity", reversed(RK3588))
    assert machine(tmp_path)[0] == "0-3"
    board(tmp_path, "cpu_capacity", [1024, 530, 1024, 530, 1000, 530, 530, 1024])
    assert machine(tmp_path)[0] == "0,2,4,7"


def test_clock_and_temperature_are_read(machine, tmp_path):
    assert machine(tmp_path)[1:] == ["0", "0", "0"]
    board(tmp_path, "cpufreq/scaling_cur_freq", [600_000] * 4 + [2_400_000, 2_208_000, 0, 0])
    board(tmp_path, "cpufreq/cpuinfo_max_freq", [1_800_000] * 4 + [2_400_000] * 4)
    for zone, celsius in enumerate((41_500, 68_250)):
        path = tmp_path / f"sys/class/thermal/thermal_zone{zone}"
        path.mkdir(parents=True)
        (path / "type").write_text("cpu-thermal\n")
        (path / "temp").write_text(f"{celsius}\n")
    assert machine(tmp_path)[1:] == ["2208", "2400", "68.25"]
