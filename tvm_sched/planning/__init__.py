"""tvm_sched/planning"""
