"""tvm_sched/frontend"""
