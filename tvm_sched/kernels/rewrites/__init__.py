"""Steps that several schedules share: questions to TIR blocks, loops, transpositions and interleaving in registers, and
the arguments of intrinsics.

May import `targets`; knows no kernel.
"""
