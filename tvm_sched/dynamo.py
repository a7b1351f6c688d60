"""`torch.compile(model, backend="subp")`: inference on this CPU by compiled networks, found by an entry point.

    fast = torch.compile(model.eval(), backend="subp", options={"threads": 2})
    with torch.no_grad():
        y = fast(x)

Each graph that TorchDynamo traces is compiled when it is called, for the shapes that come, anew for others, up to
SHAPES of them, and anew when weights have changed. What cannot be compiled, and calls that want gradients, PyTorch runs
itself: a warning says why, once a graph.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subp_contract.errors import Notice, UserError, require
from tvm_sched import compiler

SHAPES = 8  # of the inputs of one graph that are compiled; PyTorch runs others
_TRACED = re.compile(r"^l_(self|fn)_|(?<=_)(modules|parameters|buffers)_")  # in TorchDynamo's names of weights
KNOWN = set(inspect.signature(compiler.compile).parameters) - {
    *("module", "example_inputs", "example_kwargs", "shapes", "dump"),
}


def backend(
    graph: torch.fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None, **_: Any
) -> Callable:
    """What TorchDynamo calls with a graph and its inputs, weights among them; gives what computes it.

    options: those of `compile` by name: target, threads (by default PyTorch's own number), precision, ...
    Raises UserError for others.
    """
    unknown = sorted((options or {}).keys() - KNOWN)
    require(not unknown, f"backend 'subp' has no option {', '.join(unknown)}: it has {', '.join(sorted(KNOWN))}")
    fixed = [place for place, given in enumerate(example_inputs) if _is_weight(given)]
    return Graph(graph, fixed, {"threads": torch.get_num_threads()} | dict(options or {}))


def _is_weight(given: Any) -> bool:
    """Whether TorchDynamo hands a parameter or buffer of the model's to the graph."""
    return isinstance(given, nn.Parameter) or getattr(given, "_dynamo_static_input_type", None) is not None


class Graph:
    """A traced graph, called as it is: compiled where that can be done, for each shape when it first comes."""

    def __init__(self, graph: torch.fx.GraphModule, fixed: Sequence[int], options: Mapping[str, Any]) -> None:
        """fixed: the places among the arguments where weights stand."""
        self.graph, self.fixed, self.options = graph, list(fixed), options
        self.compiled: dict[tuple, Callable | None] = {}  # by the other arguments' shapes; None: PyTorch runs it
        self._marks: tuple = ()
        self._warned = False

    def __call__(self, *args: Any) -> Any:
        if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in args):
            self._warn("it is called with gradients enabled: use torch.no_grad() or torch.inference_mode()")
            return self.graph(*args)
        marks = tuple(map(_mark, (args[place] for place in self.fixed)))
        if marks != self._marks:
            self.compiled.clear()
            self._marks = marks
        key = tuple((each.shape, each.dtype) if isinstance(each, Tensor) else each for each in self._others(args))
        if key not in self.compiled:
            self.compiled[key] = self._made(args)
        run = self.compiled[key]
        if run is None:
            return self.graph(*args)
        return run(*(each for each in self._others(args) if isinstance(each, Tensor)))

    def _others(self, args: Sequence[Any]) -> list[Any]:
        weights = set(self.fixed)
        return [each for place, each in enumerate(args) if place not in weights]

    @torch._dynamo.disable
    def _made(self, args: Sequence[Any]) -> Callable | None:
        """The graph compiled for arguments like these; None, and a warning, where that cannot be."""
        if len(self.compiled) >= SHAPES:
            self._warn(f"its inputs come in more than {SHAPES} shapes")
            return None
        moving = [place for place in range(len(args)) if place not in self.fixed and isinstance(args[place], Tensor)]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", Notice)
                return compiler.compile(Bound(self.graph, args, moving), tuple(args[i] for i in moving), **self.options)
        except UserError as error:
            self._warn(str(error))
            return None

    def _warn(self, reason: str) -> None:
        if not self._warned:
            warnings.warn(f"backend 'subp' leaves a graph to PyTorch: {reason}", Notice, stacklevel=3)
        self._warned = True


class Bound(nn.Module):
    """A graph of which only the arguments at the places `moving` are left to give; the others are these."""

    def __init__(self, graph: torch.fx.GraphModule, args: Sequence[Any], moving: Sequence[int]) -> None:
        super().__init__()
        self.graph, self.moving, self.args = graph, moving, list(args)
        raw = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
        short = [_TRACED.sub("", name).strip("_") for name in raw]
        clash = len(set(short)) < len(short) or any(hasattr(self, name) for name in short)
        names = raw if clash else short
        self.names = {place: names[place] for place in range(len(args)) if place not in moving}
        for place, name in self.names.items():
            if isinstance(args[place], Tensor):
                self.register_buffer(name, args[place].detach())

    def forward(self, *given: Tensor) -> Any:
        args = [getattr(self, self.names.get(place, ""), each) for place, each in enumerate(self.args)]
        for place, tensor in zip(self.moving, given, strict=True):
            args[place] = tensor
        return self.graph(*args)


def _mark(weight: Tensor) -> tuple[int, int]:
    """What changes when a weight's numbers do: where they lie, and PyTorch's count of changes in place."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
