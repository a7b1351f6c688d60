"""subp/training"""
