"""The methods by name, and how one from outside this package becomes one of them."""

from dataclasses import Field

from subp.pruning.criteria import CRITERIA
from subp.pruning.hyperparameters import fields_by_name
from subp.pruning.methods.base import Method, SoftTraining
from subp.pruning.methods.every_epoch import ac_dc, filters, hrbp, magnitude, nonuniform, rigl, subp
from subp.pruning.methods.every_forward import sr_ste, st_3
from subp.pruning.methods.once import one_by_n, random_uniform
from subp_contract.errors import require

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        subp.METHOD,
        subp.BY_GRADIENT,
        nonuniform.METHOD,
        random_uniform.METHOD,
        rigl.METHOD,
        ac_dc.METHOD,
        magnitude.METHOD,
        filters.METHOD,
        one_by_n.METHOD,
        one_by_n.UNIFORM,
        hrbp.METHOD,
        hrbp.PATTERNS,
        sr_ste.METHOD,
        sr_ste.BLOCKS,
        st_3.METHOD,
    )
}
DEFAULT = subp.METHOD.name
DENSE = "dense"  # what training without any method is called


def register(method: Method) -> Method:
    """Makes a method known by its name to `Sparsifier` and the training's `Config`, and to the command line if
    `subp.cli` is imported later. Returns it.

    Raises UserError for a name, of the method or a hyperparameter, that is taken.
    """
    require(method.name not in (DENSE, *METHODS), f"there is a method {method.name!r} already: choose another name")
    _hyperparameters(*METHODS.values(), method)
    METHODS[method.name] = method
    return method


def hyperparameters() -> dict[str, Field]:
    """All hyperparameters there are, by name: of the methods, the criteria and soft training."""
    return _hyperparameters(*METHODS.values())


def _hyperparameters(*methods: Method) -> dict[str, Field]:
    criteria = [criterion.options for criterion in CRITERIA.values()]
    return fields_by_name([*(method.options for method in methods), *criteria, SoftTraining])
