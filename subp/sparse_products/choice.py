"""Which of a layer's three products leave the zeros out: those that are measured to be faster so, on this machine.

A measurement is of the least of a few calls each, in turn, and is kept on disk: so a second run computes as the first
did. Densities are measured in steps of an eighth of the inputs, as a schedule moves them every epoch.
"""

import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv2d_input, conv2d_weight

from subp.sparse_products import batch_norm, operator
from subp.sparse_products.operator import KINDS
from subp_contract.documents import LARGEST, parse_json, read_json
from subp_contract.errors import Notice, UserError
from subp_contract.files import read_file, write_atomically
from tvm_sched.products import product as products
from tvm_sched.products import workers
from tvm_sched.products.problem import Norm, Problem
from tvm_sched.products.product import NORMS, Product

MOST_DENSITY = 0.75  # above, nothing is measured
EIGHTHS = 8
ROUNDS = 3
NORM = "batch norm"
NOT_TRAINED = "no training step has had this size"
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
MEASURED = dict[
    str, dict[str, tuple[_Seconds, _Seconds]]
]  # what a file of measurements holds: problem -> kind -> seconds


@dataclass(frozen=True)
class Choice:
    """sparse: of each of KINDS; seconds: kind -> (without the zeros, PyTorch's); why: a reason without either."""

    sparse: tuple[bool, ...] = (False,) * len(KINDS)
    seconds: dict[str, tuple[float, float]] | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.seconds is None:
            return f"dense: {self.why}"
        parts = [
            f"{kind.replace('_', ' ')} {dense / ours:.1f}x" if chosen else f"{kind.replace('_', ' ')} dense"
            for chosen, (kind, (ours, dense)) in zip(self.sparse, self.seconds.items(), strict=True)
        ]
        return "kernels: " + ", ".join(parts) if any(self.sparse) else "dense: faster"


_known: dict[tuple, Choice] = {}


@torch.compiler.disable
def unseen(call: Callable, *arguments: Any) -> Any:
    """What `call` gives, which torch.compile does not look into: it may build and measure, and keeps state."""
    return call(*arguments)


def choose(problem: Problem, kept: int, *, soft: bool = False, measure: bool = True) -> Choice:
    """For `kept` blocks in each row.

    soft:     the weight's gradient is wanted of pruned blocks too: PyTorch's
    measure:  else what has been chosen before at this size
    """
    why = products.why_not(problem)
    if why is None and problem.batch * problem.block_rows * kept == 0:
        why = "there is nothing to compute"
    if why is None and problem.inputs > 1 and kept > MOST_DENSITY * problem.inputs:
        why = f"more than {MOST_DENSITY:.0%} of its blocks are kept"
    if why:
        return Choice(why=why)
    eighth = ceil(EIGHTHS * kept / problem.inputs)
    key = problem, eighth, soft, torch.get_num_threads()
    if key not in _known and not measure:
        return Choice(why=NOT_TRAINED)
    if key not in _known:
        _known[key] = _chosen(problem, min(problem.inputs, ceil(eighth * problem.inputs / EIGHTHS)), soft)
    return _known[key]


def choose_norm(norm: Norm, *, measure: bool = True) -> Choice:
    """Forward and backward together."""
    key = norm, torch.get_num_threads()
    if key not in _known and not measure:
        return Choice(why=NOT_TRAINED)
    if key not in _known:
        (times,) = _measured(norm.key(), norm, (NORM,), lambda: {NORM: _norm_seconds(norm)}).values()
        _known[key] = Choice((times[0] < times[1],), {NORM: times})
    return _known[key]


def build(problems: Iterable[Problem | Norm], tell: Callable[[int, int], None] = lambda done, of: None) -> None:
    """All that measuring, and computing, calls; on all cores. `tell` hears how many of how many are done."""
    threads = torch.get_num_threads()
    wanted = [
        Product(kind, problem, threads)
        for problem in problems
        if isinstance(problem, Norm) or not products.why_not(problem)
        for kind in (NORMS if isinstance(problem, Norm) else KINDS)
    ]
    workers.build(wanted, tell)


def _chosen(problem: Problem, kept: int, soft: bool) -> Choice:
    taken = _measured(f"{problem.key()};kept={kept}", problem, KINDS, lambda: seconds(problem, kept))
    asked = [kind != KINDS[2] or not soft for kind in KINDS]
    return Choice(tuple(own and ours < dense for own, (ours, dense) in zip(asked, taken.values(), strict=True)), taken)


def _measured(
    name: str, problem: Problem | Norm, kinds: Sequence[str], measure: Callable[[], dict]
) -> dict[str, tuple[float, float]]:
    """Kind -> least seconds of ours and of PyTorch's, which are measured only once."""
    path = products.folder() / f"{products.machine(torch.get_num_threads())}.json"
    with contextlib.suppress(UserError, KeyError):
        known = read_json(path, MEASURED)[name]
        return {kind: (known[kind][0], known[kind][1]) for kind in kinds}
    build([problem])
    taken = measure()
    with contextlib.suppress(OSError, UserError):  # else it is measured again next time
        _keep(path, name, taken)
    return taken


def _keep(path: Path, name: str, seconds: dict) -> None:
    """Adds a measurement to the file, which other processes may be writing too: the last whole one stays. A damaged
    file begins anew, told as a Notice.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known, damage = {}, ""
    if path.exists():
        content = read_file(path, LARGEST)  # what cannot be read is not to be replaced
        try:
            known = parse_json(content, MEASURED, str(path))
        except UserError as error:
            damage = str(error)
    write_atomically(path, json.dumps(known | {name: seconds}, indent=0).encode())
    if damage:
        warnings.warn(f"{damage}; it begins anew, and what it held is measured again", Notice, stacklevel=2)


def _operands(problem: Problem, kept: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    p, dtype = problem, getattr(torch, problem.dtype)
    index = torch.rand(p.block_rows, p.inputs, generator=draws).argsort(1)[:, :kept].sort(1).values.int()
    rows = p.batch * prod(p.image)
    shapes: list[tuple[int, ...]] = [(rows, p.channels), (rows, p.outputs), (p.outputs, p.inputs)]
    if not p.turned:
        shapes = [(p.batch, p.channels, *p.image), (p.batch, p.outputs, *p.output), (p.outputs, p.inputs, *p.kernel)]
    x, dy, weight = (torch.randn(shape, generator=draws, dtype=dtype) for shape in shapes)
    return x, dy, weight, index.contiguous()


@torch.no_grad()
def seconds(problem: Problem, kept: int) -> dict[str, tuple[float, ...]]:
    """Kind -> least seconds (without the zeros, PyTorch's), `kept` blocks in each row."""
    p = problem
    x, dy, weight, index = _operands(p, kept)
    conv = p.stride, p.padding, p.dilation, p.groups
    ours: list[Callable] = [
        lambda: operator.product(KINDS[0], p, index, (x, weight), torch.empty_like(dy)),
        lambda: operator.product(KINDS[1], p, index, (dy, weight), torch.empty_like(x)),
        lambda: operator.product(KINDS[2], p, index, (x, dy), torch.empty_like(weight)),
    ]
    theirs: list[Callable] = [
        lambda: torch.conv2d(x, weight, None, *conv),
        lambda: conv2d_input(x.shape, weight, dy, *conv),
        lambda: conv2d_weight(x, weight.shape, dy, *conv),
    ]
    if p.turned:
        theirs = [lambda: functional.linear(x, weight), lambda: dy @ weight, lambda: dy.t() @ x]
    return {kind: _least(*pair) for kind, *pair in zip(KINDS, ours, theirs, strict=True)}


@torch.no_grad()
def _norm_seconds(norm: Norm) -> tuple[float, ...]:
    shape, dtype = (norm.batch, norm.channels, norm.pixels), getattr(torch, norm.dtype)
    draws = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(shape, generator=draws, dtype=dtype) for _ in range(2))
    weight, bias = torch.ones(norm.channels, dtype=dtype), torch.zeros(norm.channels, dtype=dtype)

    def ours() -> None:
        _, mean, variance = batch_norm.batch_norm(x, weight, bias, 1e-5)
        batch_norm.backward(x, dy, weight, mean, variance, 1e-5)

    def theirs() -> None:
        _, mean, inverse = torch.native_batch_norm(x, weight, bias, None, None, True, 0.1, 1e-5)
        given = dy, x, weight, None, None, mean, inverse, True, 1e-5, [True] * 3
        torch.ops.aten.native_batch_norm_backward(*given)

    return _least(ours, theirs)


def _least(*calls: Callable) -> tuple[float, ...]:
    """Least seconds of each, called in turn after a first time that counts for nothing."""
    least = [float("inf")] * len(calls)
    for counts in (False, *[True] * ROUNDS):
        for i, call in enumerate(calls):
            started = time.perf_counter()
            call()
            if counts:
                least[i] = min(least[i], time.perf_counter() - started)
    return tuple(least)
