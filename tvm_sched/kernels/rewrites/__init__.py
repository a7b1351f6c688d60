"""Steps that several schedules share: questions to TIR blocks, loops, transpositions and interleaving in registers.

May import `targets`; knows no kernel.
"""
