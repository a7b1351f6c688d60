"""subp/pruning/channels"""
