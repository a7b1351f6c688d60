"""How a network is quantised to 8 bits, by torchao's `pt2e`: which values of its graph, with which ranges. Calibration
(`tvm_sched.quantize`) and quantisation-aware training share it, so that a network is trained for what is deployed.

    prepared = quantization.prepared(program)             # observers; of a torch.export program
    prepared(x)                                            # calibrates: any number of batches
    program = quantization.converted(prepared, (x,))       # a program with quantise/dequantise pairs

`sites` finds the operators that are computed in 8 bits, `quantizer` annotates them for torchao, `quantization` goes the
way above. May import PyTorch, torchao and `subp_contract`; must not import either half, nor TVM. It is no part of
`subp_contract`, which knows no PyTorch.
"""

WEIGHT_BITS = (7, 8)  # that weights may have
