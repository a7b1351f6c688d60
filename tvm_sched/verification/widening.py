"""Rounding to 16 bits: which layers stay in float32 so that the outputs are as near to PyTorch's as they must be.

What a layer's rounding adds to the outputs' error is estimated as in `rounding`; a layer in float32 adds nothing, and
takes about twice as long. So those go first that take the most of the error's square for their multiply-adds. In
networks that magnify rounding these are few and early ones: what comes after a layer magnifies its error.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from torch.export import ExportedProgram

from tvm_sched.deploy.manifest import COMPUTING
from tvm_sched.planning.explain import LayerChoice
from tvm_sched.verification.rounding import by_rounding, shown_by_layer

NARROW = tuple(COMPUTING)  # precisions whose layers may be in float32 instead
AIMS = (0.7, 0.3, 0.1, 0.0)  # of the limit: what the error shall be by estimate, each where the one before did not do
WHY = "in float32: the outputs would show its rounding to {} (checked against PyTorch)"


def wider(
    choices: Sequence[LayerChoice],
    wide: Mapping[str, str],
    core: ExportedProgram,
    inputs: Sequence[np.ndarray],
    excess: float,
    precision: str,
    aim: float = AIMS[0],
) -> dict[str, str] | None:
    """The layers that shall be in float32, with why; None where no more of them would help, nothing is known, or
    rounding is not what departs.

    choices: what the layers run with;  wide: those that are in float32 already;  inputs: of the program in core
    operators;  excess: the outputs' largest error, in multiples of its limit;  precision: one of NARROW;  aim: what the
    error shall be
    """
    shown = shown_by_layer(core, inputs) if np.isfinite(excess) else None
    if shown is None:
        return None
    coarse = {choice.name: 1.0 if choice.narrow_weights else choice.rounding for choice in choices}
    squares = {name: (rounding * shown.get(name, 0.0)) ** 2 for name, rounding in coarse.items()}
    # What is in float32 counts here: where a layer in 16 bits reads its result, that is rounded all the same.
    if not by_rounding(excess * COMPUTING[precision], sum(squares.values()), precision):
        return None
    macs = {choice.name: max(choice.kept_macs, 1) for choice in choices}
    asked = {choice.name for choice in choices if choice.precision == precision}
    narrow = [name for name in squares if name in asked - wide.keys() and squares[name]]
    left = sum(squares[name] for name in narrow)
    enough = left * (aim / excess) ** 2
    chosen = []
    for name in sorted(narrow, key=lambda name: -squares[name] / macs[name]):
        if left <= enough:
            break
        chosen.append(name)
        left -= squares[name]
    return {**wide, **dict.fromkeys(chosen, WHY.format(precision))} if chosen else None
