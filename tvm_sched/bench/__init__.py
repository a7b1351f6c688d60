"""Latency, honestly: engines beside each other, the machine's peak, profiles, memory, suites (`suites/` are data) and
their rows.

May import everything else of the package.
"""
