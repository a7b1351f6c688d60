"""compile, run, bench, tune and export: what they leave on disk and print, and what they say to bad input."""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image

from subp import cli
from subp.cli.compile import sources
from subp.cli.run import read_image
from subp_contract.errors import UserError
from tvm_sched import targets

ELF_MACHINE, AARCH64 = 18, 183  # offset of the architecture in an ELF header, and ARM's number there
ROW = (
    "network", "engine", "target", "n", "sparsity", "batch", "threads",
    "median_ms", "p90_ms", "min_ms", "ratio_to_best_dense", "file_bytes",
    "dense_macs", "kept_macs", "peak_gflops", "peak_median_gflops", "time_over_d", "share_of_peak",
    "file_limit_bytes", "workspace_bytes", "weights_bytes", "rss_growth_bytes", "goal",
    "precision", "weights", "ratio_to_best_int8", "calls", "core_share", "steal", "ghz",
)  # fmt: skip


def sparse_network() -> torch.nn.Module:
    """Two 3x3 convolutions, the second 1x16 sparse with 4 of 16 blocks kept, and a classifier."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 10),
    )
    with torch.no_grad():
        module[2].weight[:16, 4:] = 0
        module[2].weight[16:, :12] = 0
    return module.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """net.pt2 and the net.so compiled from it, input [1, 1, 8, 8]."""
    path = tmp_path_factory.mktemp("deployment")
    torch.export.save(torch.export.export(sparse_network(), (torch.zeros(1, 1, 8, 8),)), path / "net.pt2")
    assert cli.exit_code(["compile", str(path / "net.pt2"), "--threads", "1", "-o", str(path / "net.so")]) == 0
    return path


@pytest.fixture
def refused(capsys):
    """refused(*arguments): the one sentence on stderr of a command line that must end with exit code 2."""

    def run(*arguments) -> str:
        assert cli.exit_code([str(argument) for argument in arguments]) == 2
        sentence = capsys.readouterr().err
        assert sentence.count("\n") == 1
        return sentence

    return run


class TestCompile:
    def test_prints_size_target_and_error(self, folder, capsys):
        model, output = str(folder / "net.pt2"), str(folder / "again.so")
        assert cli.exit_code(["compile", model, "--threads", "1", "-o", output]) == 0
        printed = capsys.readouterr().out
        assert "target host" in printed and "[1, 1, 8, 8]" in printed
        assert float(re.search(r"error to PyTorch (\S+)", printed)[1]) < 1e-5

    def test_explain_lists_each_layer_with_its_pattern(self, folder, tmp_path, capsys):
        output = str(tmp_path / "net.so")
        assert cli.exit_code(["compile", str(folder / "net.pt2"), "--threads", "1", "--explain", "-o", output]) == 0
        printed = capsys.readouterr().out
        assert "1x16" in printed and "4/16" in printed

    def test_kernels_that_no_record_fits_are_told(self, folder, tmp_path, capsys):
        options = ["--threads", "3", "-o", str(tmp_path / "net.tar")]
        for target, words in (
            ("x86-avx2", "kernels (x86-avx2, 3 threads): 3 of 3 by the analytic default; no tuning record fits\n"),
            ("cortex-a53", "3 of 3 by the analytic default; there are no tuning records for this target\n"),
        ):
            assert cli.exit_code(["compile", str(folder / "net.pt2"), "--target", target, *options]) == 0
            assert words in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("schedules", "words"),
        [
            ({"default": 2, "record": 18}, "18 of 20 by records, 2 by the analytic default"),
            ({"record for float32 weights": 9, "record": 1}, "9 of 10 by records for float32 weights, 1 by records"),
            ({"estimate": 4, "default": 1}, "4 of 5 by estimates, 1 by the analytic default"),
        ],
    )
    def test_where_schedules_come_from_is_told(self, schedules, words):
        assert f"(cortex-a76, 2 threads): {words}" in sources(Counter(schedules), targets.CORTEX_A76, 2, True)

    def test_an_unknown_target_is_answered_with_the_known_ones(self, folder, tmp_path, refused):
        sentence = refused("compile", folder / "net.pt2", "--target", "z80", "-o", tmp_path / "net.so")
        assert "z80" in sentence and "cortex-a76" in sentence
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("sparsity", ["1", "-0.1", "nan"])
    def test_a_sparsity_outside_0_to_1_is_refused(self, tmp_path, refused, sparsity):
        assert "sparsity" in refused("compile", "resnet20", "--sparsity", sparsity, "-o", tmp_path / "net.so")

    def test_an_n_that_fits_no_layer_is_refused(self, tmp_path, refused):
        assert "n = 7" in refused("compile", "resnet20", "--n", 7, "-o", tmp_path / "net.so")

    def test_a_failure_leaves_the_old_file(self, folder, tmp_path, refused):
        old = tmp_path / "net.so"
        old.write_text("old")
        truncated = tmp_path / "half.pt2"
        truncated.write_bytes((folder / "net.pt2").read_bytes()[:500])
        assert "half.pt2" in refused("compile", truncated, "-o", old)
        assert old.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["half.pt2", "net.so"]

    def test_the_output_folder_must_exist(self, folder, tmp_path, refused):
        assert "there is no folder" in refused("compile", folder / "net.pt2", "-o", tmp_path / "none" / "net.so")
        assert "is a folder" in refused("compile", folder / "net.pt2", "-o", tmp_path)

    def test_the_output_folder_must_be_writable(self, folder, tmp_path, refused, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
        assert "is not writable" in refused("compile", folder / "net.pt2", "-o", tmp_path / "net.so")

    def test_records_must_exist(self, folder, tmp_path, refused):
        options = ("--records", tmp_path / "none", "-o", tmp_path / "net.so")
        assert "no tuning records" in refused("compile", folder / "net.pt2", *options)

    def test_a_compiler_that_is_not_there_is_told_before_the_work(self, tmp_path, refused):
        options = ("--cc", "no-such-c++ -O2", "-o", tmp_path / "net.so")
        assert "there is no compiler 'no-such-c++ -O2' here" in refused("compile", tmp_path / "none.pt2", *options)

    def test_a_compiler_that_cannot_link_is_told(self, folder, tmp_path, refused):
        options = ("--threads", 1, "--cc", "false", "-o", tmp_path / "net.so")
        assert "false cannot link" in refused("compile", folder / "net.pt2", *options)
        assert not list(tmp_path.iterdir())

    def test_code_for_a_board_is_checked_in_this_machines_instructions(self, folder, tmp_path, capsys):
        output = str(tmp_path / "net.tar")  # object files: nothing to link with is needed
        assert cli.exit_code(["compile", str(folder / "net.pt2"), "--target", "cortex-a76", "-o", output]) == 0
        printed = capsys.readouterr().out
        assert "cortex-a76" in printed and "largest error to PyTorch" in printed


class TestBundle:
    def test_an_archive_is_written(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(
            "tvm_sched.deploy.bundle.build_runner",
            lambda output, *_: output.write_bytes((folder / "net.so").read_bytes()),
        )
        assert cli.exit_code(["bundle", str(folder / "net.so"), "-o", str(tmp_path / "small.tar.gz")]) == 0
        assert "MB, target host" in capsys.readouterr().out
        with tarfile.open(tmp_path / "small.tar.gz") as archive:
            names = archive.getnames()
        wanted = (
            "LICENSE.tvm NOTICE.tvm bin/runner check/inputs.npz check/outputs.npz lib/libtvm_ffi.so "
            "lib/libtvm_runtime.so net.so network.txt run.sh"
        )
        assert names == [f"small/{name}" for name in wanted.split()]

    def test_the_name_tells_the_format(self, folder, tmp_path, refused):
        assert "must end in .tar.gz" in refused("bundle", folder / "net.so", "-o", tmp_path / "net.zip")

    def test_only_a_compiled_network_is_bundled(self, folder, tmp_path, refused):
        assert "not a shared library" in refused("bundle", folder / "net.pt2", "-o", tmp_path / "net.tar.gz")
        assert not list(tmp_path.iterdir())


class TestTune:
    def test_records_are_kept_and_compile_uses_them(self, folder, tmp_path, capsys):
        records = tmp_path / "records"
        tune = ["tune", str(folder / "net.pt2"), "--threads", "1", "--trials", "2", "--records", str(records)]
        assert cli.exit_code(tune) == 0
        printed = capsys.readouterr().out
        measured = int(re.search(r"(\d+) tiles measured", printed)[1])
        lines = (records / "database_tuning_record.json").read_text().splitlines()
        assert len({json.dumps(json.loads(line)[1][0]) for line in lines}) >= measured > 0
        assert cli.exit_code(tune) == 0
        assert "nothing left to do" in capsys.readouterr().out
        assert (records / "database_tuning_record.json").read_text().splitlines() == lines
        merge = ["tune", "--merge", str(records), "--best", str(tmp_path / "best")]
        assert cli.exit_code(merge) == 0
        assert re.search(r"the fastest records of [1-9]\d* kernels", capsys.readouterr().out)
        output = ["--explain", "--records", str(records), "-o", str(tmp_path / "net.so")]
        assert cli.exit_code(["compile", str(folder / "net.pt2"), "--threads", "1", *output]) == 0
        assert "record" in capsys.readouterr().out

    def test_merging_needs_folders_of_records_and_a_place(self, folder, tmp_path, refused):
        assert "--best" in refused("tune", "--merge", tmp_path)
        assert "neither a MODEL" in refused("tune", folder / "net.pt2", "--merge", tmp_path, "--best", tmp_path)
        assert "no tuning records in" in refused("tune", "--merge", tmp_path, "--best", tmp_path / "best")
        assert "name a MODEL" in refused("tune")
        assert not (tmp_path / "best").exists()

    def test_only_this_machine_can_be_measured(self, folder, tmp_path, refused):
        options = ("--target", "cortex-a76", "--records", tmp_path / "records")
        assert "cortex-a76" in refused("tune", folder / "net.pt2", *options)
        assert not (tmp_path / "records").exists()


class TestRun:
    def test_npy_in_npy_out(self, folder, tmp_path):
        x = np.random.default_rng(0).standard_normal((1, 1, 8, 8), "float32")
        np.save(tmp_path / "x.npy", x)
        arguments = ["run", str(folder / "net.so"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")]
        assert cli.exit_code(arguments) == 0
        with torch.no_grad():
            expected = sparse_network()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)

    def test_an_image_gives_the_likeliest_classes(self, folder, tmp_path, capsys):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), "uint8"))
        image.save(tmp_path / "x.png")
        assert cli.exit_code(["run", str(folder / "net.so"), str(tmp_path / "x.png")]) == 0
        with torch.no_grad():
            x = torch.from_numpy(np.asarray(image).astype("float32")) / 255 * 2 - 1  # grey: mean and std 0.5
            shares = sparse_network()(x[None, None]).softmax(1)[0]
        printed = re.findall(r"(\d+) ([\d.]+)%", capsys.readouterr().out)
        assert [int(name) for name, _ in printed] == shares.argsort(descending=True)[:5].tolist()
        assert float(printed[0][1]) == pytest.approx(100 * shares.max().item(), abs=0.06)

    @pytest.mark.parametrize(
        "array", [np.zeros((1, 1, 9, 8), "float32"), np.zeros((1, 1, 8, 8)), np.zeros(3, "int32")], ids=str
    )
    def test_a_wrong_shape_or_dtype_is_refused(self, folder, tmp_path, refused, array):
        np.save(tmp_path / "x.npy", array)
        sentence = refused("run", folder / "net.so", tmp_path / "x.npy")
        assert "[1, 1, 8, 8]" in sentence and "float32" in sentence

    @pytest.mark.parametrize("name", ["x.npy", "x.png"])
    def test_an_unreadable_input_is_refused(self, folder, tmp_path, refused, name):
        (tmp_path / name).write_bytes(b"neither numbers nor pixels")
        assert name in refused("run", folder / "net.so", tmp_path / name)

    @pytest.mark.parametrize("shape", [(4, 8), (1, 1, 8, 9)], ids=str)
    def test_an_image_for_a_network_of_other_inputs_is_refused(self, tmp_path, shape):
        Image.new("L", (8, 8)).save(tmp_path / "x.png")
        with pytest.raises(UserError, match=r"give a .npy file"):
            read_image(tmp_path / "x.png", {"inputs": [{"shape": shape}]})

    def test_another_architectures_file_is_refused(self, folder, tmp_path, refused):
        foreign = bytearray((folder / "net.so").read_bytes())
        foreign[ELF_MACHINE] = AARCH64
        (tmp_path / "arm.so").write_bytes(foreign)
        np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), "float32"))
        assert "aarch64" in refused("run", tmp_path / "arm.so", tmp_path / "x.npy")

    def test_damaged_and_foreign_libraries_are_refused(self, folder, tmp_path, refused):
        np.save(tmp_path / "x.npy", np.zeros((1, 1, 8, 8), "float32"))
        whole = (folder / "net.so").read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"text" * 1000):
            (tmp_path / "bad.so").write_bytes(content)
            assert "bad.so" in refused("run", tmp_path / "bad.so", tmp_path / "x.npy")


class TestBench:
    def test_json_holds_one_row_a_measurement(self, folder, tmp_path, capsys):
        file = tmp_path / "bench.json"
        model = ["--model", str(folder / "net.pt2"), "--against", "torch,onnxruntime,dense"]
        arguments = ["bench", str(folder / "net.so"), *model, "--seconds", "0.2", "--json", str(file)]
        assert cli.exit_code(arguments) == 0
        rows = json.loads(file.read_text())["measurements"]
        assert [row["engine"] for row in rows] == ["subp-sparse", "pytorch", "onnxruntime", "subp-dense"]
        for row in rows:
            assert tuple(row) == ROW
            assert (row["network"], row["n"], row["sparsity"]) == ("net", 16, 0.75)
            assert (row["batch"], row["threads"]) == (1, 1)
            assert 0 < row["min_ms"] <= row["median_ms"] <= row["p90_ms"]
            assert row["dense_macs"] == 64 * 9 * (16 + 16 * 32) + 320
            d_ms = 2e-6 * row["dense_macs"] / row["peak_gflops"]
            assert row["time_over_d"] == pytest.approx(row["median_ms"] / d_ms)
        assert max(row["ratio_to_best_dense"] for row in rows[1:]) == 1
        padded = 32 * (16 - 10)  # the classifier's 10 outputs are computed as a block of 16
        sparse = 64 * 9 * (16 + 4 * 32) + 320 + padded
        assert [row["kept_macs"] for row in rows[:3]] == [sparse, *[rows[0]["dense_macs"]] * 2]
        printed = capsys.readouterr().out
        assert all(row["engine"] in printed for row in rows)

    def test_an_artifact_alone_needs_no_model(self, folder, tmp_path):
        file = tmp_path / "bench.json"
        assert cli.exit_code(["bench", str(folder / "net.so"), "--seconds", "0.1", "--json", str(file)]) == 0
        (row,) = json.loads(file.read_text())["measurements"]
        assert (row["n"], row["sparsity"], row["ratio_to_best_dense"]) == (16, 0.75, None)

    def test_layers_are_shown_in_the_order_of_their_calls(self, folder, tmp_path, capsys):
        file = tmp_path / "bench.json"
        arguments = ["bench", str(folder / "net.so"), "--seconds", "0.1", "--layers", "--json", str(file)]
        assert cli.exit_code(arguments) == 0
        (profile,) = json.loads(file.read_text())["profiles"]
        assert [step["layer"] for step in profile["steps"] if step["layer"]] == ["0", "2", "5"]
        assert sum(step["share"] for step in profile["steps"]) == pytest.approx(1)
        assert "direct 1x16" in capsys.readouterr().out

    def test_engines_that_disagree_are_not_compared(self, folder, tmp_path, capsys):
        other = sparse_network()
        torch.nn.init.ones_(other[5].bias)
        torch.export.save(torch.export.export(other, (torch.zeros(1, 1, 8, 8),)), tmp_path / "other.pt2")
        arguments = ["bench", str(folder / "net.so"), "--model", str(tmp_path / "other.pt2")]
        assert cli.exit_code([*arguments, "--json", str(tmp_path / "bench.json")]) == 1
        assert "differs from PyTorch" in capsys.readouterr().err
        assert not (tmp_path / "bench.json").exists()

    def test_wrong_options_are_refused(self, folder, tmp_path, refused):
        assert "--model" in refused("bench", folder / "net.so", "--against", "torch")
        assert "tensorrt" in refused("bench", folder / "net.so", "--against", "tensorrt", "--model", "resnet20")
        assert "either NET.SO or --suite" in refused("bench")
        assert "either NET.SO or --suite" in refused("bench", folder / "net.so", "--suite", "quick")
        assert "1,2" in refused("bench", folder / "net.so", "--threads", "0")
        assert "threads" in refused("bench", folder / "net.so", "--threads", "1000")
        torch.export.save(torch.export.export(sparse_network(), (torch.zeros(2, 1, 8, 8),)), tmp_path / "two.pt2")
        assert "[2, 1, 8, 8]" in refused("bench", folder / "net.so", "--model", tmp_path / "two.pt2")


class TestExport:
    def test_the_onnx_file_computes_the_network(self, folder, tmp_path, capsys):
        import onnxruntime

        file = tmp_path / "net.onnx"
        assert cli.exit_code(["export", str(folder / "net.pt2"), "-o", str(file)]) == 0
        x = np.random.default_rng(0).standard_normal((1, 1, 8, 8), "float32")
        session = onnxruntime.InferenceSession(file)
        (y,) = session.run(None, {session.get_inputs()[0].name: x})
        with torch.no_grad():
            np.testing.assert_allclose(y, sparse_network()(torch.from_numpy(x)).numpy(), atol=1e-5)
        assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


class TestDoctor:
    def test_names_every_job_and_ends_well(self, capsys):
        assert cli.exit_code(["doctor"]) == 0
        printed = capsys.readouterr().out
        for job in ("train", "compile for this machine", "compile for aarch64 boards", "tune", "bench"):
            assert f"{job}\n" in printed

    def test_imports_no_package_for_its_version_alone(self):
        code = "import sys; from subp import cli; assert cli.exit_code(['doctor']) == 0"
        heavy = ("torchvision", "xgboost", "onnxruntime", "onnxscript", "sklearn", "scipy")
        report = f"print([module for module in {heavy} if module in sys.modules])"
        done = subprocess.run([sys.executable, "-c", f"{code}; {report}"], capture_output=True, text=True, check=True)
        *_, imported = lines = done.stdout.splitlines()
        assert imported == "[]"
        for package, names in {"torchvision": ["torchvision"], "xgboost": ["xgboost-cpu", "xgboost"]}.items():
            versions = [each.version for each in metadata.distributions() if each.metadata["Name"] in names]
            assert any(f"  yes  {package} {version}" in lines for version in versions)

    def test_a_missing_package_is_named_with_its_remedy(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "xgboost", None)
        assert cli.exit_code(["doctor"]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "xgboost" in line)
        assert line.split()[0] == "no" and "pip install" in line
