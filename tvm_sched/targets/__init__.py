"""CPUs to generate code for: what a `Target` says of one, those that have a name, JSON files of one's own, and this
machine.

May import `subp_contract` and `runtime`.
"""

from tvm_sched.targets.lookup import (
    cpu_flags,
    cpu_model,
    cpu_name,
    get,
    host,
    host_caches,
    names,
    on_this_machine,
    runs_here,
)
from tvm_sched.targets.named import CORTEX_A76, NAMED, X86_AVX2, X86_AVX512
from tvm_sched.targets.target import Target

__all__ = [
    "CORTEX_A76",
    "NAMED",
    "X86_AVX2",
    "X86_AVX512",
    "Target",
    "cpu_flags",
    "cpu_model",
    "cpu_name",
    "get",
    "host",
    "host_caches",
    "names",
    "on_this_machine",
    "runs_here",
]
