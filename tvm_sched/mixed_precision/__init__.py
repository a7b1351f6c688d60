"""Which of a network's operators are computed in 8 bits and which in float32, for `precision="auto"`.

`costs` asks the kernels' estimates what each layer takes in either, `cut` finds the cheapest division of the network,
conversions at its seams counted, and `decision` compares that with whole networks and says what was chosen.
"""
