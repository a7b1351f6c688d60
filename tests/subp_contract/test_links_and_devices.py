"""Files are whole or not there; links and devices stay what they are."""

import os
import threading

import pytest

from subp_contract import files
from subp_contract.errors import UserError


def moved(path, content):
    """As a file that was written elsewhere first."""
    written = files.scratch(path) / f".{path.name}.scratch"
    written.write_bytes(content)
    files.put(written, path)
    assert not written.exists()


WRITERS = pytest.mark.parametrize("write", [files.write_atomically, moved])


@WRITERS
def test_a_link_is_followed_and_stays(tmp_path, write):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/file")
    for content in (b"new", b"again"):
        write(link, content)
        assert link.is_symlink() and (tmp_path / "there/file").read_bytes() == content
    assert len(list(tmp_path.rglob("*"))) == 3


@WRITERS
def test_a_device_is_written_to_and_stays(tmp_path, write):
    null = tmp_path / "null"
    null.symlink_to("/dev/null")
    before = os.stat("/dev/null")
    write(null, b"gone")
    assert null.is_symlink() and os.stat("/dev/null").st_rdev == before.st_rdev


@WRITERS
def test_who_reads_a_pipe_gets_what_is_written(tmp_path, write):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write(pipe, b"words")
    reader.join(300)
    assert read == [b"words"] and pipe.is_fifo()


def test_a_file_that_cannot_be_written_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"could not write .*folder"):
        files.write_atomically(tmp_path / "folder", b"x")
    with pytest.raises(UserError, match=r"could not write .*none"):
        files.write_atomically(tmp_path / "none" / "file", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
