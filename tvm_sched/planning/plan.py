"""Which kernel a convolution or linear layer runs with, and in which form: the cheapest by estimate.

Block size is a question of cost, not only of the zeros a layer was trained with: 1x4 zeros can run as wider blocks (the
union of four), 1x64 as four narrower ones. Every kernel is offered the layer, and where that is strided also the layer
after space-to-depth; each answers with the forms in which it takes it, and the least cost wins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, log2

from tvm_sched.kernels import KERNELS, winograd_conv2d, winograd_lanes_conv2d
from tvm_sched.kernels.base import Form
from tvm_sched.kernels.layer import Layer
from tvm_sched.kernels.ranking import rounded
from tvm_sched.kernels.space_to_depth import SpaceToDepth
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.targets import Target


@dataclass(frozen=True, eq=False)
class Plan:
    """How a layer runs."""

    form: Form
    space_to_depth: SpaceToDepth | None  # what is done with its image first
    cycles: float  # by estimate, on the target's cores

    @property
    def kernel(self) -> str:
        """The kernel's name for the reader."""
        return self.form.name + (" after space-to-depth" if self.space_to_depth else "")

    def choice(self, name: str, shape: str, layer: Layer, stored: int) -> LayerChoice:
        """What was chosen for the network's `layer`, for the reader; `shape` in words, `stored` numbers of weights."""
        kernel, savings = self.form.kernel, self.form.kernel.savings(layer, self.form)
        return LayerChoice(
            name=name,
            op=layer.op,
            shape=shape,
            n=savings.n,
            density=savings.density,
            kept=savings.kept,
            total=savings.total,
            macs=layer.macs,
            kernel=self.kernel,
            why=kernel.why(layer, self.form),
            kept_macs=savings.macs,
            weights=stored,
            rounding=self.form.rounding,
        )


@dataclass(frozen=True)
class Restriction:
    """What a layer's kernel must not be."""

    most_rounding: float = inf  # in multiples of the direct kernel's error
    kernels: frozenset[str] = frozenset()  # that are left out, by name
    why: str = ""  # after "KERNEL left out: "

    def allows(self, form: Form) -> bool:
        """Whether the layer may run in this form."""
        return form.rounding <= self.most_rounding and form.kernel.name not in self.kernels


@dataclass(frozen=True)
class Restrictions:
    """Of a network's layers."""

    default: Restriction = Restriction()
    layers: Mapping[str, Restriction] = field(default_factory=dict)  # by name

    def of(self, layer: str) -> Restriction:
        """That of the layer of this name."""
        return self.layers.get(layer, self.default)


FREE = Restrictions()
NO_WINOGRAD = Restriction(kernels=frozenset({winograd_conv2d.NAME, winograd_lanes_conv2d.NAME}), why="as asked")


def choose(layer: Layer, target: Target, restriction: Restriction = FREE.default) -> Plan | None:
    """The cheapest plan that the restriction allows; None where no kernel takes the layer."""
    kernels = [kernel for kernel in KERNELS if layer.dtype in kernel.dtypes]
    plans = [Plan(form, None, form.cycles) for kernel in kernels for form in kernel.forms(layer, target)]
    if deep := SpaceToDepth.of(layer, target):
        plans += [
            Plan(form, deep, form.cycles + deep.cycles)
            for kernel in kernels
            if kernel.after_space_to_depth
            for form in kernel.forms(deep.layer, target)
        ]
    plans = [plan for plan in plans if restriction.allows(plan.form)]
    if not plans:
        return None

    # One vector a block is simplest, and two where a scalar takes a register: both use it.
    simplest = 2 * target.lanes if target.scalar_operand == "register" else target.lanes

    def preference(plan: Plan) -> tuple:
        """Among estimates that count as equal the simpler form, and a block of few vectors."""
        return rounded(plan.cycles), plan.form.rank, abs(log2((plan.form.n or simplest) / simplest))

    return min(plans, key=preference)
