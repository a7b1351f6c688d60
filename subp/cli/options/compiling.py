"""Commands that compile."""

from typing import Any

import click

from tvm_sched import runtime_library


class Compiling(click.Command):
    """A command that imports PyTorch and TVM's compiler, in the order that takes the least time."""

    def invoke(self, ctx: click.Context) -> Any:
        runtime_library.read_symbols()
        return super().invoke(ctx)
