"""An ONNX file that knows nothing of this project: its 1xN zeros are found, and skipped.

python examples/pruned_onnx.py              # makes a small pruned file and compiles that
python examples/pruned_onnx.py net.onnx     # or one of yours
"""

import argparse
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import tvm_sched


def write_pruned(path: Path, seed: int = 0) -> None:
    """Two 3x3 convolutions of images [1, 16, 28, 28]; three in four of each row of 1x8 blocks are zero."""
    rng = np.random.default_rng(seed)
    nodes, weights, channels, n = [], [], 16, 8
    for place, outputs in enumerate((32, 32)):
        weight = rng.standard_normal((outputs, channels, 3, 3), dtype=np.float32) / math.sqrt(9 * channels)
        for row in weight.reshape(outputs // n, n, channels, 3, 3):
            row[:, rng.permutation(channels)[channels // 4 :]] = 0  # equally many of each block row
        weights.append(numpy_helper.from_array(weight, f"w{place}"))
        nodes.append(helper.make_node("Conv", [f"x{place}", f"w{place}"], [f"c{place}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"x{place + 1}"]))
        channels = outputs
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, 28, 28])
        for name, size in (("x0", 16), ("x2", 32))
    ]
    graph = helper.make_graph(nodes, "pruned", tensors[:1], tensors[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)


def main() -> None:
    """Prints what was found, and the difference from ONNX Runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="an ONNX file; by default one is made: pruned.onnx")
    path = parser.parse_args().file
    if path is None:
        write_pruned(path := Path("pruned.onnx"))
    artifact = tvm_sched.compile(path, threads=1)
    for layer in artifact.manifest["layers"]:
        print(layer["name"], f"density {layer['density']:.2f}", layer["kernel"])
    inputs = {spec.name: np.ones(spec.shape, spec.dtype) for spec in artifact.signature.inputs}
    expected = onnxruntime.InferenceSession(path).run(None, inputs)
    outputs = artifact.run_flat(list(inputs.values()))
    print(f"largest difference: {max(abs(a - b).max() for a, b in zip(outputs, expected, strict=True)):.1e}")


if __name__ == "__main__":
    main()
