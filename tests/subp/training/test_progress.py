"""What a run tells on a console."""

import io

from rich.console import Console

from subp.pruning.summary import LayerState
from subp.training.progress import Progress


def told(rows):
    console = Console(file=io.StringIO())
    Progress(console).layers(rows)
    return console.file.getvalue()


def test_layers_left_dense_are_listed_where_there_are_any():
    pruned = LayerState("conv", "Conv2d", 16, 0.25, None)
    assert told([pruned]) == "prunes 1 layer in blocks of 16\n"
    dense = LayerState("fc", "Linear", None, 1.0, "classifier")
    narrow = LayerState("narrow", "Conv2d", 8, 0.25, None)
    assert told([narrow, pruned]) == "prunes 2 layers in blocks of 16 and 8\n"
    assert told([pruned, dense]) == "prunes 1 layer in blocks of 16; dense stay:\n  fc: classifier\n"


def test_names_that_the_terminal_cannot_show_are_told_all_the_same():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Progress(Console(file=file), label="[/x] ").skipped("cannot read caf\udce9/ü.png")
    file.flush()
    assert file.buffer.getvalue() == b"[/x] skipped: cannot read caf\\udce9/\\xfc.png\n"
