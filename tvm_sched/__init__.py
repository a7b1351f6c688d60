"""Deployment of uniform 1xN block-sparse networks through Apache TVM."""
