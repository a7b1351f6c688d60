"""A target of one's own: a JSON object of `Target`'s fields, those that it does not give being a named target's.

    {"base": "cortex-a76", "cpu": "cortex-a78", "l2_bytes": 524288, "cores": 8, "costs": {"far_bytes_per_cycle": 4.5}}

`costs` is an object of `Costs`' fields, those that it does not give being the named target's too. docs/targets.md
explains the fields.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from subp_contract.documents import read_json, shown
from subp_contract.errors import UserError
from tvm_sched.targets.costs import FIGURES, RANGES, Costs
from tvm_sched.targets.named import NAMED
from tvm_sched.targets.sizes import LINE
from tvm_sched.targets.target import Target

ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Rule:
    """What a field may be, as a test and in words."""

    holds: Callable[[object], bool]
    words: str


def one_of(*choices: int | str) -> Rule:
    """One of these values, of their type."""
    return Rule(
        lambda value: type(value) is type(choices[0]) and value in choices, f"one of {', '.join(map(str, choices))}"
    )


def number(least: int, most: int) -> Rule:
    """A whole number in that range."""
    return Rule(lambda value: type(value) is int and least <= value <= most, f"a whole number from {least} to {most}")


def figure(least: float, most: float) -> Rule:
    """A number in that range, whole or not."""
    return Rule(
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most,
        f"a number from {least} to {most}",
    )


TEXT = Rule(lambda value: isinstance(value, str) and bool(value), "a text that is not empty")
TEXTS = Rule(lambda value: isinstance(value, list) and all(map(TEXT.holds, value)), "a list of texts")
BASE = one_of(*NAMED)
TRIPLE = Rule(
    lambda value: isinstance(value, str) and value.split("-")[0] in ARCHITECTURES and "-" in value,
    f"an LLVM triple of {' or '.join(ARCHITECTURES)}, such as aarch64-linux-gnu",
)
RULES = {
    "family": BASE,
    "triple": TRIPLE,
    "cpu": TEXT,
    "lanes": one_of(4, 8, 16),
    "registers": one_of(16, 32),
    "fma_per_cycle": number(1, 8),
    "scalar_operand": one_of("memory", "lane", "register"),
    "features": TEXTS,
    "cpu_flags": TEXTS,
    "fma_latency": number(1, 32),
    "loads_per_cycle": number(1, 8),
    "in_order": one_of(True, False),
    "l1_bytes": number(4096, 2**24),
    "l1_ways": number(1, 64),
    "l2_bytes": number(4096, 2**30),
    "last_cache_bytes": number(4096, 2**34),
    "cores": number(1, 1024),
    "mca": TEXT,
    "costs": Rule(lambda value: isinstance(value, dict), "an object of figures"),
}
COST_RULES = {"measured_on": TEXT} | {name: figure(*RANGES[each.metadata["unit"]]) for name, each in FIGURES.items()}


def read(path: Path) -> Target:
    """The target that a file describes; its name is the file's without the suffix. Raises UserError where the file is
    missing or says nonsense.
    """
    content = read_json(path, what="target file")
    if not isinstance(content, dict):
        raise UserError(
            f'target file {path} must hold one object of fields, such as {{"base": "cortex-a76", "cores": 8}}'
        )
    require_known(path, content, {"base": BASE} | RULES)
    if "base" not in content:
        raise UserError(f"target file {path} lacks 'base', the named target whose figures it changes: {BASE.words}")
    require_known(path, content.get("costs", {}), COST_RULES, within="costs.")
    base = NAMED[content.pop("base")]
    costs = replace(base.costs, **content.pop("costs", {}))
    values: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value for field, value in content.items()
    }
    target = replace(base, name=path.stem, costs=costs, **values)
    require_consistent(path, target, base)
    return target


def require_known(path: Path, content: Mapping, rules: Mapping[str, Rule], within: str = "") -> None:
    """Raises UserError for a field that no rule is for, or that breaks its rule. `within` precedes fields' names."""
    if unknown := sorted(set(content) - set(rules)):
        field = shown(within + unknown[0])
        raise UserError(f"target file {path}: unknown field '{field}'; known fields: {', '.join(rules)}")
    for field, value in content.items():
        if not rules[field].holds(value):
            raise UserError(
                f"target file {path}: '{within}{field}' must be {rules[field].words}, not {shown(json.dumps(value))}"
            )


def require_consistent(path: Path, target: Target, base: Target) -> None:
    """Raises UserError where fields contradict each other, or LLVM does not know the CPU."""
    if target.arch != base.arch or NAMED[target.family].arch != target.arch:
        raise UserError(
            f"target file {path}: 'base', 'family' and 'triple' must be of one architecture, {target.arch} is not "
            f"{base.arch}"
        )
    if target.l1_bytes % (target.l1_ways * LINE):
        raise UserError(
            f"target file {path}: 'l1_bytes' must be a whole number of lines of {LINE} bytes in each of its "
            f"{target.l1_ways} ways"
        )
    from tvm.target.codegen import llvm_is_valid_cpu

    if not llvm_is_valid_cpu(target.cpu, target.triple):
        raise UserError(f"target file {path}: LLVM knows no {target.arch} CPU '{target.cpu}'")


def content_of(target: Target) -> dict:
    """What a file that describes the target holds, as `read` takes it: what the nearest named target does not say."""
    base = min(
        (each for each in NAMED.values() if each.arch == target.arch), key=lambda each: len(changes(each, target))
    )
    content = {field: value for field, value in changes(base, target).items() if field in RULES}
    if "costs" in content:
        content["costs"] = changes(base.costs, target.costs)
    return {"base": base.name} | content


def changes(before: Target | Costs, after: Target | Costs) -> dict:
    """The fields of `after` that are not the same in `before`."""
    values = {field.name: getattr(after, field.name) for field in fields(after)}
    return {name: value for name, value in values.items() if value != getattr(before, name)}
