"""tvm_sched/bench"""
