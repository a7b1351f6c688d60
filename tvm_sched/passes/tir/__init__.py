"""tvm_sched/passes/tir"""
