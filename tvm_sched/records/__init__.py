"""Tuning records: MetaSchedule's database in a folder, the fastest record of each kernel, what layers take in their
forms, and the JSON lines that all consist of. Looking up is here, making them is `tuning`'s.

May import `planning` and what stands below it; knows nothing of networks.
"""
