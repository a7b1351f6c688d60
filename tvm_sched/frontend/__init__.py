"""What turns a user's network into a Relax module whose layers are named: today `torch.export`'s programs, recurrent
layers unrolled, large batches divided.

May import `passes.graph` for its vocabulary; decides nothing about kernels.
"""
