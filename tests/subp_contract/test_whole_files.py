"""Files are written by several writers at once; what is no file, or no JSON of its kind, is not read."""

import os
import subprocess
import sys

import pytest

from subp_contract import documents, files
from subp_contract.errors import UserError

WRITER = """
import sys
from pathlib import Path
from subp_contract.files import write_atomically
for _ in range(60):
    write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
"""


def test_two_writers_of_one_file_both_succeed(tmp_path):
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, letter]) for letter in "ab"]
    seen = set()
    while any(each.poll() is None for each in writers):
        if path.exists():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))
    assert [each.wait() for each in writers] == [0, 0]
    assert seen <= {(100_000, 1)} and list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (tmp_path / "pipe", "is no regular file"),
        ("/dev/zero", "is no regular file"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (tmp_path, "is a folder"),
        (tmp_path / "none", "there is no file"),
    ):
        with pytest.raises(UserError, match=words):
            files.read_file(path)
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(UserError, match="has 100 bytes, more than the 99 "):
        files.read_file(tmp_path / "large", 99)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ', "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b'{"a": "b"}', r"Expected `int`, got `str` - at `\$\[...\]`"),
    ],
)
def test_json_of_another_kind_is_told_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"the list .*{words}"):
        documents.read_json(path, dict[str, int], "the list")


def test_names_are_shown_without_commands_to_the_terminal():
    assert documents.shown("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert documents.shown("é" * 300) == "é" * 200 + "..."
