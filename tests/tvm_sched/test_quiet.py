"""TVM's chatter is dropped from standard error; nothing else is, whatever happens inside."""

import os

import pytest

from tvm_sched.quiet import CHATTER, quiet


def test_known_lines_are_dropped_and_others_kept_in_order(capfd):
    with quiet():
        os.write(2, b"before\n")
        for words in CHATTER:
            os.write(2, b"[time] " + words + b" and more\n")
        os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_standard_output_is_left_alone(capfd):
    with quiet():
        os.write(1, CHATTER[0] + b"\n")
    assert capfd.readouterr().out == CHATTER[0].decode() + "\n"


def test_an_exception_passes_with_what_was_said(capfd):
    with pytest.raises(ZeroDivisionError), quiet():
        os.write(2, b"a reason\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "a reason\n"


def test_one_inside_another(capfd):
    with quiet():
        os.write(2, b"one\n")
        with quiet():
            os.write(2, b"two\n" + CHATTER[0] + b"\n")
        os.write(2, b"three\n")
    assert capfd.readouterr().err == "one\ntwo\nthree\n"


def test_a_last_line_without_an_end_is_kept(capfd):
    with quiet():
        os.write(2, b"half a line")
    assert capfd.readouterr().err == "half a line"


def test_no_file_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else pytest.skip("no /proc")
    for _ in range(3):
        with quiet():
            pass
    assert len(os.listdir("/proc/self/fd")) == before
