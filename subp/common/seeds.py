"""Random numbers by purpose: every use draws from a seed derived from the run's seed and from what it is for.

So nothing depends on how many numbers were drawn before, a run resumes without saved generator states, and any number
of loader processes gives the same images.
"""

import hashlib
import json
from operator import index

import torch


def derived_seed(*parts: int | str) -> int:
    """A number below 2^63 that the parts determine; other parts give an unrelated one."""
    digest = hashlib.blake2b(json.dumps(parts, default=index).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded with the parts."""
    return torch.Generator().manual_seed(derived_seed(*parts))
