"""The picture of four bars a network, of rows as `subp bench` writes them."""

import json
import runpy
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from subp_contract.errors import UserError

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "plot_precisions.py"))
FLOAT32, INT8 = {"resnet18": (8.0, 3.0), "mobilenet_v1": (4.0, 2.0)}, {"resnet18": (4.0, 1.6), "mobilenet_v1": (2, 1)}


def rows(precision, times, **more):
    made = []
    for network, (dense, sparse) in times.items():
        for engine, sparsity, ms in (("subp-dense", 0.0, dense), ("subp-sparse", 0.75, sparse)):
            row = {"network": network, "engine": engine, "sparsity": sparsity, "precision": precision, "median_ms": ms}
            made.append(row | {"batch": 1, "threads": 1, "weights": "float32"} | more)
    return made


def file(path, measurements):
    path.write_text(json.dumps({"measurements": measurements}))
    return str(path)


def test_bars_are_the_milliseconds_and_their_labels_the_speed_ups(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    files = file(tmp_path / "a.json", rows("float32", FLOAT32)), file(tmp_path / "b.json", rows("int8", INT8))
    result = CliRunner().invoke(SCRIPT["command"], [*files, "-o", str(tmp_path / "p.png")], catch_exceptions=False)
    assert result.exit_code == 0 and "resnet18: float32, dense 8.00 ms, int8, dense 4.00 ms" in result.output
    (axes,) = drawn[0].axes
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    assert heights == [[8.0, 4.0], [4.0, 2.0], [3.0, 2.0], [1.6, 1.0]]
    assert [text.get_text() for text in axes.texts] == ["", "", "2.0x", "2.0x", "2.7x", "2.0x", "5.0x", "4.0x"]


def test_a_picture_is_written(tmp_path):
    both = file(tmp_path / "both.json", rows("float32", FLOAT32) + rows("int8", INT8))
    output = tmp_path / "p.png"
    assert CliRunner().invoke(SCRIPT["command"], [both, "-o", str(output)], catch_exceptions=False).exit_code == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_others_than_the_four_builds_do_not_count():
    strange = rows("int8", {"resnet18": (0.1, 0.1)}, threads=2) + rows("float32", {"resnet18": (0.1, 0.1)}, batch=8)
    strange += rows("float32", {"resnet18": (0.1, 0.1)}, weights="float16")
    strange += [{**row, "engine": "openvino-int8"} for row in rows("int8", {"resnet18": (0.1, 0.1)})]
    found = SCRIPT["times_of"](rows("float32", FLOAT32) + rows("int8", INT8) + strange, 0.75)
    assert found["resnet18"][("int8", True)] == 1.6 and found["resnet18"][("float32", False)] == 8.0


def test_what_lacks_is_told(tmp_path):
    with pytest.raises(UserError, match="resnet18 was not measured in int8, dense and int8, sparse"):
        SCRIPT["times_of"](rows("float32", FLOAT32), 0.75)
    with pytest.raises(UserError, match="no row is of a build of ours, dense or 90% sparse"):
        SCRIPT["times_of"](rows("float32", FLOAT32)[1::2], 0.9)
    (tmp_path / "other.json").write_text("[]")
    result = CliRunner().invoke(SCRIPT["command"], [str(tmp_path / "other.json")])
    assert result.exit_code == 2 and "is no JSON file of subp bench" in result.output
