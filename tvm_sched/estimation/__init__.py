"""tvm_sched/estimation"""
