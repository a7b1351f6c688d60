"""What of a quantised network is left in float32, for the reader."""

from collections import Counter
from dataclasses import dataclass, field

from tvm import relax

from tvm_sched.passes.integer.linear_form import INT32, Linear, Weight

LAYERS = {"relax.nn.conv2d", "relax.matmul"}
MOVES = (  # operators that compute nothing
    "relax.reshape",
    "relax.flatten",
    "relax.squeeze",
    "relax.expand_dims",
    "relax.strided_slice",
    "relax.split",
    "relax.take",
)


@dataclass
class Left:
    """Operators that read quantised values as fractions, and what reads their results, until they are quantised."""

    layers: dict[str, str] = field(default_factory=dict)  # layer's name -> why it is one
    operators: Counter[str] = field(default_factory=Counter)  # of all others, how many
    results: set[relax.Var] = field(default_factory=set)  # of such operators

    def note(self, call: relax.Call, made: relax.Expr, layer: str | None, why: str) -> None:
        """Notes one; `why`: it is a layer, and why it is one of them."""
        self.results.add(made)
        if layer:
            self.layers[layer] = f"in float32: {why}"
        elif call.op.name not in (*MOVES, "relax.permute_dims"):
            self.operators[call.op.name.removeprefix("relax.").removeprefix("nn.")] += 1

    @property
    def remarks(self) -> list[str]:
        """In words, none where nothing is left but layers, which have a line of their own."""
        each = [f"{name} ({times} times)" if times > 1 else name for name, times in sorted(self.operators.items())]
        return [f"in float32, as there is no form in integers here: {', '.join(each)}"] if each else []


def why_not(x: Linear | None, weight: object) -> str:
    """Why a layer is not computed in integers."""
    if not isinstance(weight, Weight):
        return "its weights are no int8 numbers around 0 with a scale for each output, or one for all"
    if x is None or len(x.terms) != 1:
        return "its input is not stored in 8 bits with one scale"
    return "its sums may not fit 32 bits" if weight.most >= INT32 else "its data are laid out otherwise"
