"""subp/pruning"""
