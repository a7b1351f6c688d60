"""Compilers are found for each target, and what they link can be read back."""

import platform
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from elftools.elf.elffile import ELFFile

from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.deploy import toolchain


@pytest.fixture
def installed(monkeypatch):
    """A machine that has these programs, and perhaps zig."""

    def install(*programs, zig=False):
        monkeypatch.setattr(toolchain.shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)
        monkeypatch.setattr(toolchain, "find_spec", lambda name: object() if zig and name == "ziglang" else None)
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    return install


@pytest.mark.parametrize(
    ("target", "programs", "expected"),
    [
        (targets.X86_AVX2, ("gcc", "g++", "cc"), ["/usr/bin/g++"]),
        (targets.X86_AVX2, ("gcc", "cc"), ["/usr/bin/gcc"]),
        (targets.X86_AVX2, ("clang",), ["/usr/bin/clang"]),
        (targets.CORTEX_A76, ("g++", "aarch64-linux-gnu-g++"), ["/usr/bin/aarch64-linux-gnu-g++"]),
        (targets.CORTEX_A76, ("aarch64-linux-gnu-gcc",), ["/usr/bin/aarch64-linux-gnu-gcc"]),
    ],
)
def test_the_targets_own_compiler_is_taken(installed, target, programs, expected):
    installed(*programs)
    assert toolchain.linker(target) == expected


def test_zig_links_for_any_target(installed):
    installed("g++", zig=True)
    assert toolchain.linker(targets.CORTEX_A76)[1:] == ["-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.28"]


def test_a_program_is_built_with_zig_for_its_older_glibc(installed):
    installed("g++", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", zig=True)
    assert toolchain.program_compiler("aarch64")[1:] == ["-m", "ziglang", "c++", "-target", "aarch64-linux-gnu.2.28"]
    installed("g++", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++")
    assert toolchain.program_compiler("aarch64") == ["/usr/bin/aarch64-linux-gnu-g++"]


def test_a_compiler_of_c_builds_no_program(installed):
    installed("gcc", "cc")
    with pytest.raises(UserError, match=r"install g\+\+"):
        toolchain.program_compiler("x86_64")


def test_the_users_compiler_goes_first(installed):
    installed("g++", "my-c++", zig=True)
    assert toolchain.linker(targets.X86_AVX2, "my-c++ -B 'a folder'") == ["my-c++", "-B", "a folder"]
    assert toolchain.program_compiler("aarch64", "my-c++") == ["my-c++"]
    with pytest.raises(UserError, match="there is no compiler 'other -x' here"):
        toolchain.linker(targets.X86_AVX2, "other -x")


def test_object_files_alone_are_made_for_macos():
    with pytest.raises(
        UserError,
        match="for target 'apple-m1' there are object files only, nothing here links for macOS: "
        r"save to a name ending in \.tar",
    ):
        toolchain.linker(targets.get("apple-m1"))


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        (targets.X86_AVX2, r"install g\+\+"),
        (targets.CORTEX_A76, r"'pip install ziglang', or install g\+\+-aarch64-linux-gnu"),
    ],
)
def test_without_a_compiler_the_remedy_is_told(installed, target, remedy):
    installed(*(("g++",) if target.arch == "aarch64" else ()))
    with pytest.raises(
        UserError, match=f"no compiler here links for {target.arch}: {remedy}; or save to a name ending in .tar"
    ):
        toolchain.linker(target)


@pytest.fixture
def compiler():
    return toolchain.linker(replace(targets.host()))


def make_object(folder, compiler, text="int answer(void) { return 42; }"):
    (folder / "code.c").write_text(text)
    subprocess.run(
        [*compiler, "-x", "c", "-c", "-fPIC", str(folder / "code.c"), "-o", str(folder / "code.o")], check=True
    )
    return str(folder / "code.o")


@pytest.mark.parametrize("manifest", [b"{}", b"x" * 100_000, bytes(range(256))])
def test_a_manifest_is_read_back_as_it_was(tmp_path, compiler, manifest):
    library = tmp_path / "lib.so"
    toolchain.link(str(library), [make_object(tmp_path, compiler)], compiler, manifest)
    assert toolchain.read_manifest(library) == (manifest, targets.host().arch)


def test_debug_information_is_left_out(tmp_path, compiler):
    library = tmp_path / "lib.so"
    toolchain.link(str(library), [make_object(tmp_path, [*compiler, "-g"])], compiler, b"{}")
    with open(library, "rb") as file:
        assert not [section.name for section in ELFFile(file).iter_sections() if section.name.startswith(".debug")]


def test_the_linkers_first_words_are_told(tmp_path, compiler):
    with pytest.raises(UserError, match=r"cannot link .*lib\.so: .*missing\.o") as caught:
        toolchain.link(str(tmp_path / "lib.so"), [str(tmp_path / "missing.o")], compiler, b"{}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "lib.so").exists()


def test_an_object_without_a_manifest_is_none_of_ours(tmp_path, compiler):
    with pytest.raises(UserError, match="has no manifest"):
        toolchain.read_manifest(tmp_path / make_object(tmp_path, compiler))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "lib.so").touch()
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(UserError, match="Permission denied"):
        toolchain.read_manifest(tmp_path / "lib.so")


@pytest.mark.skipif(not shutil.which("readelf"), reason="binutils' readelf is not here to compare with")
def test_needed_versions_are_those_that_readelf_lists(tmp_path, compiler):
    text = '#include <math.h>\n#include <stdio.h>\ndouble f(double x) { printf("%g", x); return exp(x); }'
    library = tmp_path / "lib.so"
    toolchain.link(str(library), [make_object(tmp_path, compiler, text), "-lm"], compiler, b"{}")
    listed = re.findall(
        r"Name: GLIBC_([\d.]+) ", subprocess.run(["readelf", "-VW", library], capture_output=True, text=True).stdout
    )
    assert toolchain.needed_versions(library)["GLIBC"] == max(tuple(map(int, version.split("."))) for version in listed)


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ([{}], "needs no glibc"),
        ([{"GLIBC": (2, 17)}], "runs with glibc 2.17 and later"),
        ([{"GLIBC": (2, 4)}, {"GLIBC": (2, 31), "GLIBCXX": (3, 4, 28)}], "runs with glibc 2.31 and later"),
        (
            [{"GLIBC": (2, 34)}, {"GLIBC": (2, 17), "GLIBCXX": (3, 4, 30)}],
            "runs with glibc 2.34 and later (WARNING: not on Debian 11, which lacks GLIBC 2.34, GLIBCXX 3.4.30: "
            "'pip install ziglang' links for older systems)",
        ),
    ],
)
def test_systems_are_told_in_words(monkeypatch, versions, words):
    monkeypatch.setattr(toolchain, "needed_versions", lambda path: versions[path])
    assert toolchain.runs_with(*range(len(versions))) == words
