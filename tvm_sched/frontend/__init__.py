"""What turns a user's network into a Relax module whose layers are named. A network is an nn.Module, a program of
`torch.export`, or an ONNX file, which becomes an nn.Module (`onnx`); PyTorch writes it in its core operators
(`decompositions`), and each of these has a converter (`aten`). Large batches are divided.

May import `passes.graph` for its vocabulary; decides nothing about kernels.
"""
