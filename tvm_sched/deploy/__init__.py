"""tvm_sched/deploy"""
