"""Attributes of functions that several passes know."""

SCHEDULED = "tirx.is_scheduled"  # TVM's own: later passes leave the loops alone
INTERNAL = "subp.internal"  # what only gets tensors that have been tested need not test them
DIRECT = "subp.direct"  # called by other functions of the module alone, with pointers
CALLER = "subp.caller"  # calls such functions
POINTERS = "subp.pointers"  # takes pointers from whoever calls it
