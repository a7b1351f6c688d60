"""A sparse network in 8 bits: calibrated on a few batches, compiled, and held against float32.

python examples/int8.py
"""

import torch
from own_loop import small_network

import subp
import tvm_sched


def main() -> None:
    """Writes int8.so and prints both outputs' likeliest classes."""
    torch.manual_seed(0)
    model = small_network()  # of random weights; in earnest a trained one
    # Dot products take four channels: `multiple` has every block row keep so many.
    sparsifier = subp.Sparsifier(model, n=16, sparsity=0.75, multiple=4, method="one-by-n-uniform", epochs=1)
    sparsifier.step(0)
    model = sparsifier.fold().eval()

    batches = [torch.rand(8, 1, 8, 8) for _ in range(4)]  # in earnest some hundred images, prepared as in use
    program = tvm_sched.quantize(model, batches)
    x = batches[0][:1]
    artifact = tvm_sched.compile(program, x, threads=1)
    artifact.save("int8.so")
    with torch.no_grad():
        expected, given = model(x), artifact(x)
    print(artifact)
    print(f"float32: class {expected.argmax()}; int8: class {given.argmax()}")
    print(f"difference: {(given - expected).abs().max() / expected.abs().max():.1%} of the largest output")


if __name__ == "__main__":
    main()
