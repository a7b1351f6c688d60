"""Convolutions and linear layers over uniform 1xN blocks as differentiable functions of PyTorch tensors, on CPUs: the
three products of a step by tvm_sched.products, or by PyTorch where that is faster.

Knows nothing of masks: `subp.pruning.sparse_compute` asks it for a layer's products. May import `subp_contract`, and of
deployment `tvm_sched.products`, whose functions need nothing of TVM: its compiler is loaded by processes that build.
"""
