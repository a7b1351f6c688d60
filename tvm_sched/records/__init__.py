"""Tuning records: which schedule of a function was the fastest that somebody measured, or is by estimate.

May import `kernels` and `targets`. Knows functions by their structure alone, not networks, nor how records are made.
"""
