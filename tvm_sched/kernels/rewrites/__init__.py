"""Steps that several schedules share: questions to TIR blocks, loops, transpositions and interleaved pixels in registers.

May import `targets`; knows no kernel.
"""
