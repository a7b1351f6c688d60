"""Rewrites of a module, one file each, named after what it does, and what they share (`relax_tools`, `layer_names`,
`each`); `pipeline.PHASES` says in which order they run.

`graph/`: of Relax functions; `tir/`: of the functions that they call; `precision/` and `integer/`: both, of networks of
other numbers than float32; `nonfinite/`: both, of NaN and infinities. May import `records`, `planning` and what stands
below these.
"""
