"""From a product to machine code, by TVM's compiler, which is loaded with this module."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from tvm import relax
from tvm.ir.transform import PassContext

from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder
from tvm_sched import codegen, targets
from tvm_sched.deploy import objects, toolchain
from tvm_sched.products import batch_norm, forward, input_gradient, tiles, weight_gradient
from tvm_sched.products.problem import Problem
from tvm_sched.products.product import SUPPORT, Product
from tvm_sched.targets import Target

# kind -> (the module of a product in such a tile, the tile)
BUILDERS: dict[str, tuple[Callable, Callable]] = {
    forward.NAME: (forward.build, tiles.forward),
    input_gradient.NAME: (input_gradient.build, tiles.input_gradient),
    weight_gradient.NAME: (weight_gradient.build, tiles.weight_gradient),
    batch_norm.FORWARD: (batch_norm.forward, lambda *_: None),
    batch_norm.BACKWARD: (batch_norm.backward, lambda *_: None),
}
# Of TVM's lowering, and four fifths of its time: products ask for no more memory than they need, and LLVM finds common
# subexpressions itself.
NEEDLESS = ["s_tir.CompactBufferAllocation", "tirx.CommonSubexprElim"]


@cache
def host(threads: int) -> Target:
    """This machine, to so many threads."""
    return replace(targets.get("host"), cores=threads)


def executable(product: Product) -> relax.VMExecutable:
    """Its code, which can be called at once."""
    build, tile_of = BUILDERS[product.kind]
    target = host(product.threads)
    problem = product.problem
    if isinstance(problem, Problem):
        problem = tiles.interleaved(problem, target, product.threads)
    tile = tile_of(problem, target, product.threads)
    with PassContext(disabled_pass=NEEDLESS):
        return codegen.build(build(problem, tile, target, product.threads), target)


def keep(product: Product) -> bool:
    """Builds it into its file. Returns whether it lies there now: not without a linker, or where nothing can be
    written.
    """
    path = product.path
    try:
        compiler = toolchain.linker(host(product.threads))
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path) as made:
            library = made / path.name

            def link(output: str, files: list[str], **_: object) -> None:
                toolchain.link(output, [*files, str(SUPPORT)], compiler, manifest=b"")

            objects.export(executable(product), library, link)
            os.replace(library, path)
    except (UserError, OSError):
        return False
    return True
