"""tvm_sched/kernels/rewrites"""
