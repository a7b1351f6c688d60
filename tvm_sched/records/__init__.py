"""tvm_sched/records"""
