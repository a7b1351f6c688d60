"""What is shipped of a tuning log: kernels whose default tile was beaten."""

import json

from click.testing import CliRunner
from integer_run import CONV2D, TARGETS, Convolution, function_of
from ship_records import command
from te_run import scheduled, tiles

from tvm_sched.records.database import Records
from tvm_sched.records.fastest import BEST, BestRecords

HOST = TARGETS["host"]


def test_kernels_whose_default_tile_nothing_beat_need_no_line(tmp_path):
    log, shipped = tmp_path / "log", tmp_path / "shipped"
    records = Records(log, HOST, create=True)
    beaten, kept = (function_of(Convolution(8, out, (8, 8), (1, 1)), HOST).mod for out in (16, 32))
    for mod, seconds in ((beaten, (2e-3, 1e-3)), (kept, (1e-3, 2e-3))):
        possible = tiles(CONV2D, mod, HOST)
        for tile, time in zip((possible[0], possible[-1]), seconds, strict=True):
            records.add(mod["main"], scheduled(CONV2D, mod, HOST, tile), [time])
    done = CliRunner().invoke(command, [str(log), str(shipped)], catch_exceptions=False)
    assert "1 of 2 kernels beat their default tiles" in done.output
    (line,) = (shipped / BEST).read_text().splitlines()
    assert json.loads(line)["seconds"] == 1e-3 and "\\n" not in line  # index maps without indents
    found = BestRecords(shipped, HOST)
    assert found.lookup(beaten["main"]) is not None and found.lookup(kept["main"]) is None
