"""The forms of a network's layers, measured: which kernel, block size, variant, with or without space-to-depth.

What a form costs depends on what fusion makes of it. So the network is fused several times, each time with another of
its layers' plans (`planning.plan.alternatives`), and from each such network a layer takes the function that holds its
kernel, and what runs before that for its sake alone, as a space-to-depth pass. What a layer has before it in every form
does not count. The default tiles are measured first; forms that are far slower stay with that, the tiles of the others
are searched.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from statistics import median

from tvm import IRModule, relax
from tvm.tirx import PrimFunc
from tvm_ffi import structural_hash

from tvm_sched import pipeline
from tvm_sched.frontend.torch_export import Imported
from tvm_sched.kernels import kernel_of
from tvm_sched.kernels.layer import Layer
from tvm_sched.passes.graph.layer_names import layer_of
from tvm_sched.passes.tir.schedule_functions import schedule_one
from tvm_sched.pipeline import Compilation
from tvm_sched.planning.plan import Measured, Plan, Restriction, alternatives, chosen, layer_key, plans_of
from tvm_sched.records.database import workload
from tvm_sched.records.form_times import FAILED, FormTimes
from tvm_sched.targets import Target
from tvm_sched.tuning.tiles import LOOKS, Search, Space, Task

HOPELESS = 1.5  # times the least of the first looks, from where on a form is not looked at again
PROMISING = 1.15  # times the least by default tiles, up to which other tiles may make a form the fastest


@dataclass(frozen=True)
class FormResult:
    """Milliseconds of a layer in its forms, by their names; infinite where one failed. `first` is the form by estimate,
    `chosen` the one that compiling will take.
    """

    layer: str
    shape: str
    ms: Mapping[str, float]
    first: str
    chosen: str


@dataclass
class Survey:
    """A chooser that notes which forms the layers have: picks what was `measured` to be the fastest, or, where a number
    is `picked`, the form of that number, the first where there are fewer.
    """

    measured: Measured
    picked: int | None = None
    keys: dict[str, str] = field(default_factory=dict)  # of the layers, by name
    plans: dict[str, list[Plan]] = field(default_factory=dict)  # those worth measuring, by the layer's key

    def __call__(self, name: str, layer: Layer, target: Target, restriction: Restriction) -> Plan | None:
        """The layer's plan."""
        ranked = plans_of(layer, target, restriction)
        if not ranked:
            return None
        key = self.keys[name] = layer_key(layer)
        plans = self.plans[key] = alternatives(ranked)
        if self.picked is None:
            return chosen(ranked, self.measured(key))
        return plans[self.picked if self.picked < len(plans) else 0]

    def missing(self, known: Measured) -> dict[str, list[Plan]]:
        """Layers, by key, that have several forms not all of which are known."""
        return {
            key: plans
            for key, plans in self.plans.items()
            if len(plans) > 1 and not {plan.kernel for plan in plans} <= known(key).keys()
        }


@dataclass(frozen=True)
class Version:
    """A layer in one form: the functions that compute it."""

    form: str
    kernel: PrimFunc
    before: tuple[PrimFunc, ...]  # what prepares its image


@dataclass(frozen=True)
class Forms:
    """A layer in all of its forms, the first by estimate first."""

    layer: str
    shape: str
    versions: list[Version]


def measure_forms(
    imported: Imported,
    lowering: Callable[..., Compilation],
    missing: Mapping[str, Sequence[Plan]],
    search: Search,
    times: FormTimes,
    progress: Callable[[int, int, str], None],
) -> list[FormResult]:
    """Measures the layers of these keys in the forms of their plans, and adds their times to `times`, one layer after
    another until the search's deadline. `lowering`: makes a Compilation of a chooser (`choose`).
    """
    results = []
    found = forms_of(imported, lowering, missing)
    for done, (key, forms) in enumerate(found.items()):
        progress(done, len(found), f"forms of {forms.layer}")
        if search.late:
            break
        seconds = seconds_of(forms, search)
        if any(map(isfinite, seconds.values())):
            # One that failed is told by a time that nobody takes: it is not tried again.
            times.add(key, {form: each if isfinite(each) else FAILED for form, each in seconds.items()})
            taken = chosen(list(missing[key]), times.own(key)).kernel
            ms = {form: 1e3 * each for form, each in seconds.items()}
            results.append(FormResult(forms.layer, forms.shape, ms, forms.versions[0].form, taken))
    return results


def forms_of(
    imported: Imported, lowering: Callable[..., Compilation], missing: Mapping[str, Sequence[Plan]]
) -> dict[str, Forms]:
    """The layers of these keys, by key, in the forms of their plans, as the network has them. Of several layers with a
    key the function that is called most often stands for all.
    """
    versions = defaultdict(list)
    told: dict[str, tuple[str, str]] = {}
    for number in range(max(map(len, missing.values()))):
        survey = Survey(lambda key: {}, number)
        compilation = lowering(choose=survey)
        mod = pipeline.fused(imported, compilation)
        steps = {binding.var: binding for binding in pipeline.kernel_bindings(mod)}
        named = [(layer_of(var), var) for var in steps]
        calls = defaultdict(list)  # of each layer that is missing, by key
        for mark, var in named:
            choice = compilation.choices.get(mark) if mark else None
            key = survey.keys.get(choice.name) if choice else None
            if key in missing and number < len(missing[key]) and kernel_of(mod[steps[var].value.args[0]]):
                calls[key].append(var)
                told.setdefault(key, (choice.name, choice.shape))
        for key, variables in calls.items():
            counts = Counter(steps[var].value.args[0].name_hint for var in variables)
            var = max(variables, key=lambda var: counts[steps[var].value.args[0].name_hint])
            kernel = mod[steps[var].value.args[0]]
            versions[key].append(Version(missing[key][number].kernel, kernel, before(var, steps, mod)))
    return {key: Forms(*told[key], without_common(versions[key])) for key in missing if len(versions[key]) > 1}


def before(var: relax.Var, steps: Mapping[relax.Var, relax.Binding], mod: IRModule) -> tuple[PrimFunc, ...]:
    """The functions that make a layer's image from what another layer gave, or the network's input."""
    found = []
    while (var := steps[var].value.args[1][0]) in steps:
        func = mod[steps[var].value.args[0]]
        if kernel_of(func) is not None:
            break
        if not relax.analysis.has_reshape_pattern(func):  # which becomes a view
            found.append(func)
    return tuple(found)


def without_common(versions: Sequence[Version]) -> list[Version]:
    """The versions without what all have before them."""
    hashes = [Counter(structural_hash(workload(func)) for func in version.before) for version in versions]
    common = hashes[0]
    for each in hashes[1:]:
        common = common & each
    lasting = []
    for version in versions:
        left, kept = Counter(common), []
        for func in version.before:
            key = structural_hash(workload(func))
            if left[key]:
                left[key] -= 1
            else:
                kept.append(func)
        lasting.append(Version(version.form, version.kernel, tuple(kept)))
    return lasting


def seconds_of(forms: Forms, search: Search) -> dict[str, float]:
    """Seconds of each form: by the best tile of those that are promising, by the default tile of the others."""
    looks = {version.form: Looks(version, search) for version in forms.versions}
    for number in range(LOOKS):
        least = min(each.seconds for each in looks.values())
        for each in looks.values():
            if not number or each.seconds <= HOPELESS * least < inf:
                each.look()
    least = min(each.seconds for each in looks.values())
    promising = [each for each in looks.values() if each.seconds <= PROMISING * least < inf]
    if len(promising) > 1:
        for each in promising:
            each.search_tiles()
    return {form: each.seconds for form, each in looks.items()}


class Looks:
    """What is known of a version's time."""

    def __init__(self, version: Version, search: Search):
        self.version, self.search = version, search
        self.before = [inf] * len(version.before)  # seconds
        try:
            self.space: Space | None = Space(version.kernel, search.target, most=1)
        except Exception:  # of any kind, from TVM's primitives: compiling would take the function apart
            self.space = None
        self.known = search.known(version.kernel) if self.space else {}
        self.tuned = inf

    @property
    def seconds(self) -> float:
        """The least that was measured; infinite before, and where it failed."""
        default = min(self.known.get(self.space.default, [inf])) if self.space else inf
        return min(default, self.tuned) + sum(self.before)

    def look(self) -> None:
        """Measures once more: the kernel's default tile, and what runs before it. A kernel that has been looked at
        often enough, by an earlier search, is not.
        """
        if self.space is None:
            return
        if len(self.known[self.space.default]) < LOOKS:
            self.search.measure(self.version.kernel, [self.space.first], self.known)
        for number, func in enumerate(self.version.before):
            scheduled, _ = schedule_one(named(func), self.search.target, None)
            for _, result in self.search.measurer.measure(func, [scheduled]):
                if result.run_secs:
                    self.before[number] = min(self.before[number], median(map(float, result.run_secs)))

    def search_tiles(self) -> None:
        """Searches the kernel's tiles."""
        result = self.search.run(Task(self.version.form, 1, func=self.version.kernel))
        self.tuned = result.best_ms / 1e3 if isfinite(result.best_ms) else inf


def named(func: PrimFunc) -> PrimFunc:
    """The function as the entry of a library, its marks kept."""
    return func.with_attrs({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})
