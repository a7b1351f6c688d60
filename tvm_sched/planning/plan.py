"""Which kernel a convolution or linear layer runs with, and in which form: the fastest that was measured, else the
cheapest by estimate.

Block size is a question of cost, not only of the zeros a layer was trained with: 1x4 zeros can run as wider blocks (the
union of four), 1x64 as four narrower ones. Every kernel is offered the layer, and where that is strided also the layer
after space-to-depth; each answers with the forms in which it takes it, and the least cost wins.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf, log2

from tvm_sched.kernels import KERNELS, winograd_conv2d
from tvm_sched.kernels.base import Form
from tvm_sched.kernels.layer import Layer, longest_row
from tvm_sched.kernels.narrow import winograd_lanes_conv2d
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
        """The kernel's name for the reader, and of the form in records."""
        return self.form.name + self.after

    @property
    def wide_kernel(self) -> str:
        """That of the same plan with weights of the data's dtype."""
        return self.form.wide_name + self.after

    @property
    def after(self) -> str:
        """Ends these names."""
        return " after space-to-depth" if self.space_to_depth else ""

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
            precision=layer.precision,
            rounding=self.form.rounding,
            weights_dtype=self.form.weights or layer.precision,
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
EXACT_WEIGHTS = Restriction(most_rounding=100.0)  # less than by any weights of 16 bits, more than any algorithm's
NO_WINOGRAD = Restriction(kernels=frozenset({winograd_conv2d.NAME, winograd_lanes_conv2d.NAME}), why="as asked")


Measured = Callable[[str], Mapping[str, float]]  # a layer's key -> seconds in its forms, by `Plan.kernel`
MeasuredOn = Callable[[str], tuple[int, Mapping[str, float]]]  # likewise, with the threads that they were measured on
# (layer's name, layer, target, restriction) -> its plan; None where no kernel takes it
Chooser = Callable[[str, Layer, Target, Restriction], Plan | None]

NOISE = 0.03  # relative difference of two times, each the least of several looks, that says nothing
NEAR, OF_A_KIND, MOST = 1.6, 2, 4  # see `alternatives`


def chooser(measured: Measured | None, on_others: MeasuredOn | None = None) -> Chooser:
    """Chooses by what was measured, where it was."""
    return lambda name, layer, target, restriction: choose(layer, target, restriction, measured, on_others)


def choose(
    layer: Layer,
    target: Target,
    restriction: Restriction = FREE.default,
    measured: Measured | None = None,
    on_others: MeasuredOn | None = None,
) -> Plan | None:
    """The plan that the restriction allows and that is the fastest as far as the layer was measured, with as many
    threads or else with others, see `carried_over`; else the cheapest by estimate. None where no kernel takes the
    layer. See `narrowed` for weights of 16 bits.
    """
    if not (ranked := plans_of(layer, target, restriction)):
        return None
    key = layer_key(layer)
    seconds = measured(key) if measured else {}
    if not seconds and on_others:
        threads, others = on_others(key)
        if others:
            seconds = carried_over(others, plans_of(layer, replace(target, cores=threads), restriction), ranked)
    return chosen(ranked, seconds)


def carried_over(seconds: Mapping[str, float], before: list[Plan], now: list[Plan]) -> dict[str, float]:
    """What was measured of a layer's forms, times what the estimates say of the change from the plans `before` to those
    `now`, which are for another number of threads.
    """
    cycles = {plan.kernel: plan.cycles for plan in before}
    return {
        plan.kernel: seconds[plan.kernel] * plan.cycles / cycles[plan.kernel]
        for plan in now
        if plan.kernel in seconds and plan.kernel in cycles
    }


def chosen(ranked: list[Plan], seconds: Mapping[str, float]) -> Plan:
    """The one of a layer's plans, the first choice first, as `choose` gives it. `seconds`: of the layer's forms, by
    `Plan.kernel`.
    """
    wide, narrow = by_weights(ranked)
    best = fastest(wide or narrow, seconds)
    return narrowed(best, narrow, seconds) if wide else best


def narrowed(best: Plan, narrow: list[Plan], seconds: Mapping[str, float]) -> Plan:
    """The plan with weights of 16 bits that takes the place of a layer's `best` with others; `best` where that
    would be slower by more than the noise. `narrow`: those that there are, the first choice first.

    It is the fastest that was measured. Else it is the same form, if there is one: the two estimates differ by nothing
    but how weights are read, and those of unlike forms by all that is not known of either.
    """
    known = [plan for plan in narrow if plan.kernel in seconds]
    if known and best.kernel in seconds:
        other = min(known, key=lambda plan: seconds[plan.kernel])
        return other if seconds[other.kernel] <= seconds[best.kernel] * (1 + NOISE) else best
    twin = next((plan for plan in narrow if plan.wide_kernel == best.kernel), best)
    return twin if twin.cycles <= best.cycles * (1 + NOISE) else best


def plans_of(layer: Layer, target: Target, restriction: Restriction = FREE.default) -> list[Plan]:
    """The plans that the restriction allows, the cheapest by estimate first."""
    target = target.of_dtype(layer.dtype)
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

    # One vector a block is simplest, and two where a scalar takes a register: both use it.
    simplest = 2 * target.lanes if target.scalar_operand == "register" else target.lanes

    def preference(plan: Plan) -> tuple:
        """Among estimates that count as equal the simpler form, and a block of few vectors."""
        return rounded(plan.cycles), plan.form.rank, abs(log2((plan.form.n or simplest) / simplest))

    return sorted(plans, key=preference)


def alternatives(ranked: list[Plan]) -> list[Plan]:
    """Of a layer's plans, the first choice first, those that are worth measuring: of each kind (a kernel's variant,
    with or without space-to-depth) the OF_A_KIND first by estimate, within NEAR times the least estimate, MOST at the
    most, and as many with weights of 16 bits.
    """
    wide, narrow = by_weights(ranked)
    return worth_measuring(wide) + worth_measuring(narrow)


def by_weights(ranked: list[Plan]) -> tuple[list[Plan], list[Plan]]:
    """The plans with weights of the data's dtype, and those with narrower ones."""
    wide, narrow = ([plan for plan in ranked if (plan.form.weights is None) == kind] for kind in (True, False))
    return wide, narrow


def worth_measuring(ranked: list[Plan]) -> list[Plan]:
    """`alternatives` of plans whose weights are stored alike."""
    if not ranked:
        return []
    limit = NEAR * min(plan.cycles for plan in ranked)
    kinds: Counter[tuple] = Counter()
    found: dict[str, Plan] = {}
    for plan in ranked:
        kind = plan.form.words, plan.space_to_depth is None
        if plan.cycles <= limit and plan.kernel not in found and kinds[kind] < OF_A_KIND:
            found[plan.kernel] = plan
            kinds[kind] += 1
    return list(found.values())[:MOST]


def fastest(ranked: list[Plan], seconds: Mapping[str, float]) -> Plan:
    """The first of a layer's plans, unless another was measured to be faster by more than the noise, or another alone
    was measured. `seconds`: of the layer's forms, by `Plan.kernel`.
    """
    first, measured = ranked[0], [plan for plan in ranked if plan.kernel in seconds]
    if not measured:
        return first
    best = min(measured, key=lambda plan: seconds[plan.kernel])
    kept = seconds.get(first.kernel, inf) <= seconds[best.kernel] * (1 + NOISE)
    return first if kept else best


def layer_key(layer: Layer) -> str:
    """What tells one layer from another for its forms, as JSON: its geometry, the block size of its zeros and how many
    blocks a block row keeps; neither its weights nor what is fused behind it. Two masks of a kind have one key, though
    the unions of their blocks, as wider ones need them, are of a few blocks more or less.
    """
    zeros = layer.zeros
    kept = [zeros.n, longest_row(layer.kept[zeros.n])] if zeros else None
    image, channels = (*layer.image, layer.channels), (layer.out_channels, layer.groups)
    geometry = (layer.kernel, layer.stride, layer.padding, layer.dilation)
    return json.dumps([layer.dtype, layer.linear, image, channels, *geometry, kept], separators=(",", ":"))
