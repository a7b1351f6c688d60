"""The search for the fastest schedule of each kernel: measuring here or on a farm of boards, MetaSchedule's cost model,
records written as they come.

May import `pipeline`, `deploy.toolchain` and what stands below these; `compile` does not need it.
"""
