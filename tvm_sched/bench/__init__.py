"""Latency, honestly: engines beside each other, the machine's peak, profiles, memory, suites (data in `suites/`), rows.

May import everything else of the package.
"""
