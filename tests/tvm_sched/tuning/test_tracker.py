"""A tracker's devices are listed, and what is none is told in a sentence."""

import socket
import threading

import boards
import pytest

from subp import cli
from tvm_sched.tuning.farm import Farm
from tvm_sched.tuning.tracker import NoTracker, Tracker


@pytest.fixture(scope="module")
def tracker():
    with boards.running_tracker() as address:
        yield address


@pytest.mark.parametrize("address", ["", "board", "9190", ":9190", "board:", "board:port", "board:0", "board:65536"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="HOST:PORT is wanted"):
        Tracker(address)


def test_brackets_around_an_ipv6_address_are_taken_off():
    assert (Tracker("[::1]:9190").host, Tracker("[::1]:9190").port) == ("::1", 9190)


def test_where_nobody_listens_it_is_said():
    with pytest.raises(NoTracker, match=r"no tracker answers at 127\.0\.0\.1:.* refused"):
        Tracker(f"127.0.0.1:{boards.free_port()}").kinds()


def test_what_is_no_tracker_is_told():
    with socket.create_server((boards.HOST, 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request"), daemon=True).start()
        with pytest.raises(NoTracker, match="is not a TVM RPC tracker"):
            Tracker(f"{boards.HOST}:{server.getsockname()[1]}").kinds()


def test_devices_are_listed_by_key_free_or_busy(tracker):
    with boards.silent_board(tracker, "listed") as device:
        (kind,) = [kind for kind in Tracker(tracker).kinds() if kind.key == "listed"]
        assert (kind.devices, kind.free, kind.waiting) == ([device], 1, 0)
        with Tracker(tracker).request("listed") as request:
            assert request.wait(300).device == device
        (kind,) = [kind for kind in Tracker(tracker).kinds() if kind.key == "listed"]
        assert (kind.devices, kind.free, kind.waiting) == ([device], 0, 0)
        with Tracker(tracker).request("listed") as request:
            assert request.wait(0.1) is None
            (kind,) = [kind for kind in Tracker(tracker).kinds() if kind.key == "listed"]
            assert kind.waiting == 1


def test_doctor_lists_the_boards(tracker, capsys):
    with boards.silent_board(tracker, "doctored") as device:
        assert cli.exit_code(["doctor", "--tracker", tracker]) == 0
    assert f"doctored: 1 registered, 1 free, 0 busy: {device}" in capsys.readouterr().out


def test_a_doctor_who_finds_no_free_board_fails(capsys):
    assert cli.exit_code(["doctor", "--tracker", "127.0.0.1:1"]) == 1
    told = capsys.readouterr()
    assert "tune on boards" in told.out and told.err.startswith("subp: no board is free to tune on boards: ")


def test_a_key_without_devices_is_refused_with_those_that_there_are(tracker):
    with (
        boards.silent_board(tracker, "rpi5"),
        pytest.raises(ValueError, match=r"has no device of key 'rpi4'; it has rpi5 \(1\)"),
    ):
        Farm(tracker, "rpi4")


@pytest.mark.parametrize("options", [["--tracker", "127.0.0.1:1"], ["--key", "rpi5"], ["--jobs", "2"]])
def test_options_that_belong_together(options, tmp_path, capsys):
    assert cli.exit_code(["tune", "resnet20", "--records", str(tmp_path / "records"), *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
