"""How long kernels and networks would take on a CPU that is not here, or not now: by static analysis of machine code,
by records, by the kernels' own estimates.

May import `pipeline` and what stands below it; nothing is run.
"""
