"""Tuning records: MetaSchedule's database in a folder, the fastest record of each kernel, and the JSON lines that both
consist of. Looking up is here, making them is `tuning`'s.

May import `kernels` and what stands below it; knows nothing of networks.
"""
