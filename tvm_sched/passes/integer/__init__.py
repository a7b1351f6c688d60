"""Networks of 8-bit integers: their layers found in Relax (`integer_layers`, `linear_form`), and what is done with
bytes in their functions (`copy_bytes`, `interleave_bytes`, `lower_dots`, `narrow_bytes`). May import `passes.graph`.
"""
