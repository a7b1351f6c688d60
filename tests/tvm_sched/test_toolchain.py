"""Linkers are found for each target, and what they link can be read back."""

import platform
import subprocess
from dataclasses import replace

import pytest
from elftools.elf.elffile import ELFFile

from tvm_sched import targets, toolchain
from tvm_sched.errors import UserError


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
    assert toolchain.linker(targets.CORTEX_A76)[1:] == ["-m", "ziglang", "c++", "-target", "aarch64-linux-gnu.2.28"]


def test_object_files_alone_are_made_for_macos():
    with pytest.raises(UserError, match="for target 'apple-m1' there are object files only, nothing here links for macOS: save to a name ending in .tar"):
        toolchain.linker(targets.get("apple-m1"))


@pytest.mark.parametrize(
    ("target", "remedy"), [(targets.X86_AVX2, "install gcc"), (targets.CORTEX_A76, r"install g\+\+-aarch64-linux-gnu, or 'pip install ziglang'")]
)
def test_without_a_compiler_the_remedy_is_told(installed, target, remedy):
    installed(*(("g++",) if target.arch == "aarch64" else ()))
    with pytest.raises(UserError, match=f"no compiler here links for {target.arch}: {remedy}; or save to a name ending in .tar"):
        toolchain.linker(target)


@pytest.fixture
def compiler():
    return toolchain.linker(replace(targets.host()))


def make_object(folder, compiler, text="int answer(void) { return 42; }"):
    (folder / "code.c").write_text(text)
    subprocess.run([*compiler, "-x", "c", "-c", "-fPIC", str(folder / "code.c"), "-o", str(folder / "code.o")], check=True)
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
    with pytest.raises(UserError, match="cannot link .*lib.so: .*missing.o") as caught:
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
