"""tvm_sched/tuning"""
