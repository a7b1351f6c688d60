"""Object files take no room on a disk while a library is made of them."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.deploy import objects, toolchain


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_they_are_in_memory_until_they_are_linked(tmp_path, monkeypatch):
    links = []

    def link(output, files, compiler, manifest):
        links.extend(os.readlink(file) for file in files)
        assert all(Path(file).read_bytes().startswith(b"\x7fELF") for file in files)
        raise UserError("the disk is full")

    monkeypatch.setattr(toolchain, "link", link)
    artifact = tvm_sched.compile(nn.Conv2d(16, 16, 1), torch.zeros(1, 16, 2, 2), threads=1, check=False)
    with pytest.raises(UserError, match="the disk is full"):
        artifact.save(tmp_path / "net.so")
    assert len(links) == 2 and all(each.startswith(f"/proc/{os.getpid()}/fd/") for each in links)
    assert list(tmp_path.iterdir()) == [] and not any(os.path.exists(each) for each in links)


def no_file(name):
    raise OSError("too many open files")


NO_PROCESS = 2**22 + 1  # is beyond Linux's largest


@pytest.mark.parametrize(("name", "fails"), [("memfd_create", no_file), ("getpid", lambda: NO_PROCESS)])
def test_they_are_on_the_disk_where_memory_has_no_files(tmp_path, monkeypatch, name, fails):
    """As beyond a limit of open files, or without /proc."""
    monkeypatch.setattr(os, name, fails, raising=False)
    with objects._in_memory(tmp_path / "lib0.o"):
        assert not (tmp_path / "lib0.o").is_symlink()
