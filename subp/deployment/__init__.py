"""From a trained network to a compiled one: networks by name, checked stages, benchmark suites, advice on block sizes.

May import all of subp but subp.cli, and tvm_sched: the only folder below the command line that does. Must not print,
nor know click.
"""
