"""Operators with the attributes that exporters write, against ONNX Runtime or ONNX's reference evaluator."""

import numpy as np
import pytest
import torch
from onnx_models import floats, ints, node_model

from tvm_sched.frontend.onnx import load

IMAGE = floats(2, 4, 9, 7)
SMALL = floats(1, 2, 4, 6)
SIZES = ints(1, 2, 7, 9)


def agree(model, *inputs: np.ndarray) -> None:
    """That the network of a model gives what the model does, in all outputs, shapes and types."""
    network = load(model)
    with torch.no_grad():
        made = network(*map(torch.from_numpy, inputs))
    wanted = network.reference(*inputs)
    made, wanted = (each if isinstance(each, tuple) else (each,) for each in (made, wanted))
    assert len(made) == len(wanted)
    for mine, reference in zip(made, wanted, strict=True):
        assert mine.numpy().dtype == reference.dtype
        np.testing.assert_allclose(mine.numpy(), reference, rtol=2e-5, atol=2e-6)


def node_agrees(op, inputs, constants=(), **about) -> None:
    """The same for a model of one node."""
    given = [each for number, each in enumerate(inputs) if each is not None and number not in constants]
    agree(node_model(op, inputs, constants, **about), *given)


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_softmax_takes_axes_as_one_before_opset_13(op, opset, axis):
    if axis >= 0 or opset >= 11:
        node_agrees(op, [floats(2, 3, 4)], opset=opset, axis=axis)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes_of_reductions_are_attributes_then_inputs(op, keepdims):
    x = floats(2, 3, 4)
    node_agrees(op, [x], opset=11, axes=[1, -1], keepdims=keepdims)
    node_agrees(op, [x, ints(1, -1)], [1], opset=18, keepdims=keepdims)
    node_agrees(op, [x], opset=18, keepdims=keepdims)
    node_agrees(op, [x], opset=18, noop_with_empty_axes=1)


MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


@pytest.mark.parametrize("transformation", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("more", [{}, {"exclude_outside": 1}, {"cubic_coeff_a": -0.5}])
def test_resize_interpolates(transformation, mode, more):
    if mode == "cubic" or not more:
        about = {"mode": mode, "coordinate_transformation_mode": transformation, **more}
        node_agrees("Resize", [SMALL, None, None, SIZES], [3], opset=13, **about)
        scales = np.array([1, 1, 1.6, 0.7] if transformation != "align_corners" else [1, 1, 1.5, 0.5], np.float32)
        node_agrees("Resize", [SMALL, None, scales], [2], opset=13, **about)


@pytest.mark.parametrize("transformation", MODES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_takes_the_nearest(transformation, rounding):
    about = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": transformation}
    for scales in ([1, 1, 2, 2], [1, 1, 1.5, 0.5] if transformation == "align_corners" else [1, 1, 1.6, 0.7]):
        node_agrees("Resize", [SMALL, None, np.array(scales, np.float32)], [2], opset=13, **about)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_with_antialias(mode):
    scales = np.array([0.6, 0.45], np.float32)
    about = {"mode": mode, "antialias": 1, "axes": [2, 3], "exclude_outside": 1}
    node_agrees("Resize", [floats(1, 2, 8, 9), None, scales], [2], opset=19, **about)


def test_resize_of_a_region_and_by_a_policy():
    region = np.array([0, 0, 0.2, -0.1, 1, 1, 0.8, 1.2], np.float32)
    about = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0, "mode": "linear"}
    node_agrees("Resize", [SMALL, region, None, SIZES], [1, 3], opset=13, **about)
    node_agrees(
        "Resize", [SMALL, None, None, ints(7, 9)], [3], opset=18, axes=[2, 3], keep_aspect_ratio_policy="not_larger"
    )


def test_upsample_is_the_resize_of_old():
    scales = np.array([1, 1, 2, 3], np.float32)
    node_agrees("Upsample", [SMALL, scales], [1], opset=9, mode="nearest")
    node_agrees("Upsample", [SMALL], opset=7, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])
    node_agrees("Resize", [SMALL, np.array([1, 1, 1.5, 0.5], np.float32)], [1], opset=10, mode="nearest")


@pytest.mark.parametrize(
    "about",
    [
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 0, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER", "strides": [1, 1]},
        {"kernel_shape": [2, 3], "dilations": [2, 1], "pads": [2, 2, 1, 2]},
    ],
)
def test_pooling_windows(about):
    node_agrees("MaxPool", [IMAGE], opset=19, outputs=2, **about)
    for count in (0, 1):
        node_agrees("AveragePool", [IMAGE], opset=19, count_include_pad=count, **about)


def test_pooling_by_norm_and_back():
    node_agrees("LpPool", [IMAGE], opset=18, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], p=3)
    node_agrees("GlobalLpPool", [IMAGE], p=3)
    pooled, index = np.abs(floats(1, 1, 2, 2)), ints(1, 7, 8, 14).reshape(1, 1, 2, 2)
    node_agrees("MaxUnpool", [pooled, index], opset=11, kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize(
    "about",
    [
        {"strides": [2, 3], "output_padding": [1, 2]},
        {"strides": [2, 2], "pads": [0, 1, 2, 1]},
        {"strides": [3, 2], "output_shape": [14, 9]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"group": 2, "dilations": [2, 1]},
    ],
)
def test_transposed_convolutions(about):
    weight = floats(4, 3, 3, 3, seed=1)
    bias = floats(3 * about.get("group", 1), seed=2)
    node_agrees("ConvTranspose", [floats(1, 4, 5, 4), weight, bias], [1, 2], opset=11, **about)


@pytest.mark.parametrize("constants", [(1, 2), ()])
@pytest.mark.parametrize(
    "about",
    [{"pads": [1, 1, 1, 1]}, {"pads": [0, 1, 2, 0], "strides": [2, 1]}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}],
)
def test_convolutions(about, constants):
    node_agrees("Conv", [IMAGE, floats(6, 2, 3, 3, seed=1), floats(6, seed=2)], constants, opset=11, group=2, **about)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op, gates", [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("constant", [True, False])
def test_recurrent_layers(op, gates, direction, constant):
    sides, hidden = 2 if direction == "bidirectional" else 1, 5
    x = floats(6, 2, 4)
    weights = [floats(sides, gates * hidden, 4, seed=1), floats(sides, gates * hidden, hidden, seed=2)]
    weights += [floats(sides, 2 * gates * hidden, seed=3)]
    states = [floats(sides, 2, hidden, seed=4)] * (2 if op == "LSTM" else 1)
    about = {"hidden_size": hidden, "direction": direction, "outputs": 3 if op == "LSTM" else 2}
    for more in [{"linear_before_reset": 1}, {"linear_before_reset": 0}] if op == "GRU" else [{}]:
        inputs = [x, *weights, None, *states]
        node_agrees(op, inputs, [1, 2, 3] if constant else [], opset=14, **about, **more)
        node_agrees(op, [x, *weights], [1, 2, 3] if constant else [], opset=14, **about, **more)


def test_recurrent_layers_that_pytorch_has_not():
    x, w, r, b = floats(6, 2, 4), floats(1, 20, 4, seed=1), floats(1, 20, 5, seed=2), floats(1, 40, seed=3)
    lengths, peepholes = np.array([6, 3], np.int32), floats(1, 15, seed=4)
    about = {"hidden_size": 5, "outputs": 3, "opset": 14}
    node_agrees("LSTM", [x, w, r, b, lengths], [1, 2, 3], **about)
    node_agrees("LSTM", [x, w, r, b, None, None, None, peepholes], [1, 2, 3, 7], **about)
    node_agrees("LSTM", [x, w, r, b], [1, 2, 3], activations=["HardSigmoid", "Tanh", "Softsign"], **about)
    node_agrees("LSTM", [x, w, r, b], [1, 2, 3], clip=0.7, **about)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_padding(mode):
    x = floats(1, 2, 5, 6)
    node_agrees("Pad", [x], opset=2, mode=mode, pads=[0, 0, 2, 1, 0, 0, 0, 3])
    node_agrees("Pad", [x, ints(0, 0, 2, 1, 0, 0, -1, 3)], [1], opset=13, mode=mode)
    value = np.float32(3.5) if mode == "constant" else None
    node_agrees("Pad", [x, ints(2, 1, 0, 3), value, ints(-2, 3)], [1, 2, 3], opset=18, mode=mode)


def test_slices_go_backwards_and_beyond_the_ends():
    x = floats(5, 6, 7)
    node_agrees("Slice", [x], opset=9, starts=[1, -3], ends=[1000, -1], axes=[0, 2])
    for starts, ends, steps in [
        ((-1, 5), (-(2**62), 0), (-2, -1)),
        ((1, 0), (2**62, -1), (2, 3)),
        ((9, 3), (0, 2), (1, 1)),
    ]:
        node_agrees("Slice", [x, ints(*starts), ints(*ends), ints(0, -2), ints(*steps)], [1, 2, 3, 4], opset=13)


def test_indices_from_the_end():
    x = floats(3, 4, 5)
    for constants in ((), (1,)):
        node_agrees("Gather", [x, np.array([[-1, 0], [2, -2]])], constants, axis=1)
        node_agrees("Gather", [x, np.array(-2)], constants, axis=2)
        node_agrees("GatherElements", [x, np.array([[[-1, 0, 1]]])], constants, axis=1)
        node_agrees("GatherND", [x, np.array([[[-1], [0]], [[1], [-2]], [[0], [3]]])], constants, batch_dims=1)
        node_agrees("GatherND", [x, np.array([[0, -1], [-3, 2]])], constants)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scattering(reduction):
    x, index = floats(4, 5), np.array([[-1, 0], [1, 2]])
    node_agrees("ScatterElements", [x, index, floats(2, 2, seed=1)], opset=18, axis=1, reduction=reduction)
    node_agrees("ScatterND", [x, np.array([[-1], [2]]), floats(2, 5, seed=1)], opset=18, reduction=reduction)
    node_agrees("ScatterND", [x, np.array([[-1, 2], [0, -5]]), floats(2, seed=1)], opset=18, reduction=reduction)


def test_equal_parts_and_given_ones():
    x = floats(2, 7)
    node_agrees("Split", [x], opset=18, axis=1, num_outputs=3, outputs=3)
    node_agrees("Split", [x, ints(3, 4)], [1], opset=13, axis=1, outputs=2)
    node_agrees("Split", [x], opset=11, axis=1, split=[2, 5], outputs=2)


def test_searches_find_the_first_or_the_last_of_equals():
    x = np.array([[2, 3, 3, 1], [4, 4, 0, 4]], np.float32)
    for last in (0, 1):
        node_agrees("ArgMax", [x], opset=13, axis=1, select_last_index=last, keepdims=0)
        node_agrees("ArgMin", [x], opset=13, axis=-1, select_last_index=last)
    for largest in (0, 1):
        node_agrees("TopK", [x, ints(3)], [1], opset=11, axis=1, largest=largest, outputs=2)


def test_norms():
    x = floats(2, 6, 4, 5)
    scale, bias = floats(6, seed=1), floats(6, seed=2)
    mean, variance = floats(6, seed=3), np.abs(floats(6, seed=4))
    node_agrees("BatchNormalization", [x, scale, bias, mean, variance], [1, 2, 3, 4], opset=15, epsilon=1e-3)
    node_agrees("BatchNormalization", [x, scale, bias, mean, variance], opset=15, training_mode=1, outputs=3)
    node_agrees("InstanceNormalization", [x, scale, bias], [1, 2])
    node_agrees("GroupNormalization", [x, floats(3), floats(3)], [1, 2], opset=18, num_groups=3)
    node_agrees("GroupNormalization", [x, scale, bias], [1, 2], opset=21, num_groups=3)
    node_agrees("LayerNormalization", [x, floats(4, 5), floats(4, 5)], [1, 2], axis=2)
    node_agrees("LRN", [x], size=3, alpha=0.1, beta=0.6, bias=2.0)
    node_agrees("LpNormalization", [x], axis=1, p=1)
    node_agrees("MeanVarianceNormalization", [x], opset=13, axes=[0, 2])


def test_neighbours_of_an_even_number_reach_further_up():
    x = floats(2, 6, 4, 5)  # ONNX Runtime has odd numbers alone, and the reference evaluator mixes up its axes
    made = load(node_model("LRN", [x], size=4, alpha=0.1, beta=0.6, bias=2.0))(torch.from_numpy(x))
    around = np.stack([(x[:, max(0, c - 1) : c + 3] ** 2).sum(1) for c in range(6)], 1)
    np.testing.assert_allclose(made.numpy(), x / (2 + 0.1 / 4 * around) ** 0.6, rtol=1e-5)


def test_whole_numbers_divide_towards_zero():
    x, y = np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])
    node_agrees("Div", [x, y], opset=14)
    node_agrees("Mod", [x, y], opset=13)
    node_agrees("Mod", [x, y], opset=13, fmod=1)
    node_agrees("Pow", [x, np.array([2.0, 1, 2, 3], np.float32)], opset=15)


def test_regions():
    boxes = np.array([[0, 0, 5, 6], [1.5, 2, 7, 8], [-2, -1, 3, 3]], np.float32)
    for mode in ("half_pixel", "output_half_pixel"):
        about = {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.8}
        about["coordinate_transformation_mode"] = mode
        node_agrees("RoiAlign", [IMAGE, boxes, ints(0, 1, 1)], opset=16, **about)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("mode, padding", [("bilinear", "zeros"), ("nearest", "border"), ("bicubic", "reflection")])
def test_grids(mode, padding, corners):
    grid = 1.2 * floats(2, 3, 4, 2, seed=1)
    node_agrees("GridSample", [IMAGE, grid], opset=16, mode=mode, padding_mode=padding, align_corners=corners)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode):
    node_agrees("DepthToSpace", [floats(1, 8, 2, 3)], opset=13, blocksize=2, mode=mode)
    node_agrees("SpaceToDepth", [floats(1, 2, 4, 6)], opset=13, blocksize=2)


@pytest.mark.parametrize(
    "op, about",
    [
        ("Gelu", {"approximate": "tanh", "opset": 20}),
        ("Selu", {"alpha": 1.2, "gamma": 2.0}),
        ("Celu", {"alpha": 0.7}),
        ("Elu", {"alpha": 0.7}),
        ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
        ("HardSwish", {}),
        ("Shrink", {"bias": 0.3, "lambd": 0.8}),
        ("ThresholdedRelu", {"alpha": 0.5}),
        ("IsInf", {"detect_negative": 0}),
        ("Clip", {"opset": 6, "min": -0.5, "max": 0.5}),
    ],
)
def test_activations_have_parameters(op, about):
    node_agrees(op, [floats(3, 20)], **about)


def test_broadcasting_of_old_begins_at_an_axis():
    x, y = floats(2, 3, 4), floats(3)
    made = load(node_model("Add", [x, y], opset=6, broadcast=1, axis=1))(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_array_equal(made.numpy(), x + y[:, None])


def test_spectra_are_products():
    x = floats(1, 12, 1)
    node_agrees("DFT", [x], opset=17, axis=1)
    node_agrees("DFT", [x], opset=17, axis=1, onesided=1)
    node_agrees("DFT", [floats(1, 9, 2)], opset=17, axis=1, inverse=1)
    window = np.hanning(8).astype(np.float32)
    node_agrees("STFT", [floats(1, 32, 1), np.int64(4), window], [1, 2], opset=17)


def test_operators_are_defined_by_others():
    x = floats(3, 8)
    node_agrees("Swish", [x], opset=24)
