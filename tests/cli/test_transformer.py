"""A transformer pruned by subp is compiled with every linear layer sparse, attention's projections too."""

import numpy as np
import torch

import tvm_sched
from subp import Sparsifier
from subp.common.vision import import_torchvision
from subp.pruning import masking


def test_all_linear_layers_of_a_vision_transformer_run_sparse():
    torch.manual_seed(0)
    transformer = import_torchvision().models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10
    )
    torch.nn.init.normal_(transformer.heads.head.weight, std=0.1)  # zeros at first
    Sparsifier(transformer, n=16, sparsity=0.75, epochs=1, start=0, end=0).step(0)
    transformer = masking.fold(transformer).eval()
    x = torch.randn(1, 3, 16, 16)
    artifact = tvm_sched.compile(transformer, x, threads=1)
    with torch.no_grad():
        np.testing.assert_allclose(artifact(x.numpy()), transformer(x).numpy(), rtol=0, atol=1e-5)
    rows = {row.name: row for row in artifact.explain()}
    for block in range(2):
        layer = f"encoder.layers.encoder_layer_{block}"
        for name in ("self_attention.in_proj", "self_attention.out_proj", "mlp.0", "mlp.3"):
            row, total = rows[f"{layer}.{name}"], 128 if name == "mlp.3" else 64
            assert (row.op, row.n, row.kept, row.total) == ("linear", 16, total // 4, total)
