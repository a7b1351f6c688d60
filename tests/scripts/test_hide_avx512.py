"""A copy of a package is told of no AVX-512; the package itself, and all else that CPUID tells, stay."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "hide_avx512.py"
ASKING = r"""
#include <cpuid.h>
void ask(unsigned leaf, unsigned subleaf, unsigned *told) {
    __cpuid_count(leaf, subleaf, told[0], told[1], told[2], told[3]);
}
"""
ASK = """
import ctypes, engine, pathlib
library = ctypes.CDLL(str(pathlib.Path(engine.__file__).with_name("asking.so")))
for leaf, subleaf in ((7, 0), (7, 1), (1, 0)):
    told = (ctypes.c_uint * 4)()
    library.ask(leaf, subleaf, told)
    print(*told)
"""
AVX2, AVX512F, VNNI, AVX_VNNI = 1 << 5, 1 << 16, 1 << 11, 1 << 4


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="CPUID is x86-64's, found by objdump"
)
def test_a_copy_is_told_of_avx2_alone(tmp_path):
    package = tmp_path / "engine"
    package.mkdir()
    (package / "__init__.py").touch()
    build = ["gcc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(package / "asking.so")]
    subprocess.run(build, input=ASKING, text=True, check=True)

    def python(*words, **variables):
        environment = os.environ | {"PYTHONPATH": str(tmp_path)} | variables
        return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)

    made = python(str(SCRIPT), "engine", "-o", str(tmp_path / "copies"))
    assert made.returncode == 0 and "engine: 1 CPUID instruction in 1 library" in made.stdout
    variables = dict(word.split("=", 1) for word in (tmp_path / "copies" / "environment").read_text().split())
    whole = [[int(each) for each in line.split()] for line in python("-c", ASK).stdout.splitlines()]
    less = [[int(each) for each in line.split()] for line in python("-c", ASK, **variables).stdout.splitlines()]
    assert whole[0][1] & AVX2 == less[0][1] & AVX2
    assert not less[0][1] & AVX512F and not less[0][2] & VNNI and not less[1][0] & AVX_VNNI
    assert whole[2][0] == less[2][0] and whole[2][2:] == less[2][2:]  # EBX has the core's number

    again = python(str(SCRIPT), "engine", "-o", str(tmp_path / "copies"))
    assert again.returncode == 1 and "exists" in again.stderr
    assert "no package nowhere" in python(str(SCRIPT), "nowhere", "-o", str(tmp_path / "other")).stderr
    assert not (tmp_path / "other").exists()
