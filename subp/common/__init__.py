"""subp/common"""
