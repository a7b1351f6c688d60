"""Compiled networks as files: the artifact that Python calls, the bundle that a board runs without Python (its program
is in `board/`), and what they take: compilers, TVM's runtime for another architecture, large pages.

May import `planning` (the rows of `explain`), `targets` and `runtime`. Knows nothing of how a network is compiled.
"""
