"""subp/deployment"""
