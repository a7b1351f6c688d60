"""What torchao's own quantisers make compiles too."""

import numpy as np
import pytest
import torch
from quantised_networks import batches, block

import tvm_sched
from subp_quantizer.torchao_import import quantize_pt2e
from tvm_sched.deploy.manifest import limits


def xnnpack():
    module = pytest.importorskip("torchao.testing.pt2e._xnnpack_quantizer")
    return module.XNNPACKQuantizer().set_global(module.get_symmetric_quantization_config(is_per_channel=True))


def x86_inductor():
    module = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    return module.X86InductorQuantizer().set_global(module.get_default_x86_inductor_quantization_config())


@pytest.mark.parametrize("quantiser", [xnnpack, x86_inductor])
def test_the_program_compiles(quantiser):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(9))
    observed = quantize_pt2e.prepare_pt2e(torch.export.export(block(), (x,)).module(), quantiser())
    for batch in batches(3, 1, 3, 8, 8):
        observed(batch)
    program = torch.export.export(quantize_pt2e.convert_pt2e(observed), (x,))
    artifact = tvm_sched.compile(program)
    with torch.no_grad():
        expected = program.module()(x).numpy()
    np.testing.assert_allclose(np.asarray(artifact(x)), expected, atol=limits(artifact.manifest)[0])
    assert {"stem.0", "depthwise.0", "linear.0"} <= {layer.name for layer in artifact.explain()}
