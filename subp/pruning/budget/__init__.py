"""subp/pruning/budget"""
