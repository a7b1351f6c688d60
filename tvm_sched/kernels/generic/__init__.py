"""tvm_sched/kernels/generic"""
