"""tvm_sched/passes/graph"""
