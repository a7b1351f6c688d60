"""Steps that several schedules share: questions to TIR blocks, loops, a transposition in registers.

May import `targets`; knows no kernel.
"""
