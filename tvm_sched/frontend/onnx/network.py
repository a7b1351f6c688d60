"""A loaded ONNX file as an nn.Module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from subp_contract.errors import UserError, first_line
from tvm_sched.frontend.onnx.conversion import Call, Computed, Fixed, Known, Value

QUANTISED = ("operator QuantizeLinear", "operator DequantizeLinear")  # how a `Call` of one begins its words


@dataclass(frozen=True)
class Input:
    """One input of the network."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class Step(nn.Module):
    """A node without weights of its own; a module, so that its name is known in traces."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        """What the node makes of its inputs."""
        return self.function(*inputs)


class OnnxNetwork(nn.Module):
    """The network of an ONNX file, made of PyTorch's functions. Layers are submodules named as in the file.

    `input_names` and `output_names` are the file's; `forward` takes the inputs in their order, and returns a tensor, or
    a tuple where there are several outputs.
    """

    def __init__(
        self,
        model: onnx.ModelProto | Path,
        inputs: Sequence[Input],
        calls: Sequence[Call],
        outputs: Sequence[tuple[str, Value]],
    ):
        super().__init__()
        self.inputs = tuple(inputs)
        self.input_names = tuple(each.name for each in inputs)
        self.output_names = tuple(name for name, _ in outputs)
        self._model = model
        self._session: Any = None
        self._literally = any(call.node.startswith(QUANTISED) for call in calls)
        self._places: dict[int, tuple[nn.Module, str]] = {}  # id of a known tensor -> where it is held
        self._kept: list[Tensor] = []  # so that these ids stay theirs
        needed = self._needed(calls, outputs)
        last = {number: step for step, call in enumerate(needed) for number in _numbers(call.inputs)}
        final = {value.number for _, value in outputs if isinstance(value, Computed)}
        self._program = tuple(
            (
                self._module(call),
                tuple(self._operand(each) for each in call.inputs),
                call.results,
                tuple(number for number in set(_numbers(call.inputs)) if last[number] == step and number not in final),
            )
            for step, call in enumerate(needed)
        )
        self._nodes = tuple((call.node, call.values) for call in needed)
        self._outputs = tuple(self._operand(value) for _, value in outputs)
        del self._kept

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs for inputs in the file's order."""
        values: dict[int, Tensor] = dict(enumerate(inputs))

        def of(operand: tuple[Any, Any]) -> Any:
            kind, what = operand
            return values[what] if kind == "value" else what if kind == "fixed" else getattr(kind, what)

        for module, operands, results, done in self._program:
            made = module(*map(of, operands))
            made = made if isinstance(made, tuple | list) else (made,)
            values.update({number: each for number, each in zip(results, made, strict=False) if number >= 0})
            for number in done:
                del values[number]
        outputs = tuple(map(of, self._outputs))
        return outputs[0] if len(outputs) == 1 else outputs

    def example_inputs(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Random inputs: normally distributed fractions; whole numbers of 0 and 1, which are valid as indices."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(_example(each, generator) for each in self.inputs)

    def reference(self, *inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """What ONNX Runtime computes of the file, or where that does not take it, or these inputs, ONNX's reference
        evaluator. Raises UserError where neither does.
        """
        feeds = {name: np.asarray(each) for name, each in zip(self.input_names, inputs, strict=True)}
        if self._session is None:
            self._session = _session(self.stored, self._literally)
        try:
            outputs = self._session.run(list(self.output_names), feeds)
        except Exception:  # of many kinds, as for tensors without elements
            try:
                outputs = _evaluator(self.stored).run(list(self.output_names), feeds)
            except Exception as error:  # of any kind
                raise UserError(
                    "neither ONNX Runtime nor ONNX's reference evaluator runs this network, which the compiled one is "
                    f"checked against: {first_line(error)}"
                ) from error
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def first_departure(self, inputs: Sequence[np.ndarray], agree: Callable[[np.ndarray, np.ndarray], bool]) -> str:
        """The first node, in words, whose result by PyTorch does not agree with the reference's; empty where all do.
        Values inside of functions are not looked at.
        """
        feeds = dict(zip(self.input_names, inputs, strict=True))
        made: list[Any] = []
        hooks = [module.register_forward_hook(lambda *call: made.append(call[2])) for module, *_ in self._program]
        try:
            with torch.no_grad():
                self(*(torch.from_numpy(np.array(x)) for x in inputs))
        finally:
            for hook in hooks:
                hook.remove()
        model = self._model if not isinstance(self._model, Path) else onnx.load(self._model)
        known = {name for node in model.graph.node for name in node.output}
        wanted = [name for _, names in self._nodes for name in names if name in known]
        expected = dict(
            zip(wanted, _session(with_outputs(model, wanted), self._literally).run(wanted, feeds), strict=True)
        )
        for (node, names), results in zip(self._nodes, made, strict=True):
            for name, result in zip(names, results if isinstance(results, tuple | list) else (results,), strict=False):
                if name in expected and not agree(result.numpy(), np.asarray(expected[name])):
                    return node
        return ""

    @property
    def tensor_names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(of the inputs, of the outputs)."""
        return self.input_names, self.output_names

    @property
    def stored(self) -> Path | bytes:
        """The file, or the model that was in memory: what other engines run."""
        return self._model if isinstance(self._model, Path) else self._model.SerializeToString()

    def __getstate__(self) -> dict[str, Any]:
        """Without the session, which cannot be copied."""
        return self.__dict__ | {"_session": None}

    def _needed(self, calls: Sequence[Call], outputs: Sequence[tuple[str, Value]]) -> list[Call]:
        """The calls whose results are used, in order."""
        used = {value.number for _, value in outputs if isinstance(value, Computed)}
        needed = []
        for call in reversed(calls):
            if used.intersection(call.results):
                needed.append(call)
                used.update(_numbers(call.inputs))
        return needed[::-1]

    def _module(self, call: Call) -> nn.Module:
        module = call.function if isinstance(call.function, nn.Module) else Step(call.function)
        self._add(call.name, module)
        return module

    def _operand(self, value: Value | Fixed) -> tuple[Any, Any]:
        """('fixed', value), ('value', number) or (module, attribute)."""
        if isinstance(value, Fixed):
            return "fixed", value.value
        if isinstance(value, Computed):
            return "value", value.number
        tensor = value.tensor
        if id(tensor) not in self._places:
            self._kept.append(tensor)
            weight = tensor.dtype.is_floating_point and bool(tensor.isfinite().all())  # a mask of -inf is none
            held = nn.Parameter(tensor, requires_grad=False) if weight else tensor
            self._places[id(tensor)] = self._add(value.name, held)
        return self._places[id(tensor)]

    def _add(self, path: str, held: nn.Module | Tensor) -> tuple[nn.Module, str]:
        """Holds a module or tensor under that path, dots leading into submodules; (the module that has it, its name
        there).
        """
        *parents, name = [part or "_" for part in path.split(".")]
        owner: nn.Module = self
        for part in parents:
            while hasattr(owner, part) and part not in owner._modules:
                part += "_"
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        base, count = name, 1
        while hasattr(owner, name):
            name, count = f"{base}_{count}", count + 1
        if isinstance(held, nn.Module):
            owner.add_module(name, held)
        elif isinstance(held, nn.Parameter):
            owner.register_parameter(name, held)
        else:
            owner.register_buffer(name, held)
        return owner, name


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The model with these values as its outputs."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return changed.SerializeToString()


def _numbers(inputs: Sequence[Known | Computed | Fixed]) -> list[int]:
    return [each.number for each in inputs if isinstance(each, Computed)]


def _example(wanted: Input, generator: torch.Generator) -> Tensor:
    if wanted.dtype.is_floating_point:
        return torch.randn(wanted.shape, generator=generator).to(wanted.dtype)
    high = 256 if wanted.dtype == torch.uint8 else 2  # bytes are images, and no type of an index
    return torch.randint(0, high, wanted.shape, generator=generator).to(wanted.dtype)


def _session(model: Path | bytes, literally: bool) -> Any:
    """What runs the model by itself, with `run(output names, feeds)`; node by node where it shall do so literally:
    ONNX Runtime's own 8-bit kernels saturate sums on some CPUs, and round otherwise than the file says.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if literally:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        whole = str(model) if isinstance(model, Path) else model
        return ort.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    except Exception:  # of many kinds: it takes fewer operators and types than ONNX has
        return _evaluator(model)


def _evaluator(model: Path | bytes) -> Any:
    """ONNX's reference evaluator of the model."""
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(onnx.load(model) if isinstance(model, Path) else onnx.load_from_string(model))
