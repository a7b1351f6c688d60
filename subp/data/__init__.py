"""subp/data"""
