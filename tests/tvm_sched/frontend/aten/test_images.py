"""Resizing, sampling, pools, convolutions: every mode, at sizes that do not fit."""

import torch
import torch.nn.functional as F
from together import require_pytorchs

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(2, 4, 7, 9, generator=GENERATOR)
ROW = torch.randn(2, 4, 13, generator=GENERATOR)
VOLUME = torch.randn(1, 2, 5, 6, 4, generator=GENERATOR)
SIZES = ((10, 13), (3, 4), (1, 5), (14, 18), (7, 2))


def resized(**options):
    return lambda x: F.interpolate(x, **options)


def test_resizing_to_sizes():
    functions = {}
    for mode in ("nearest", "nearest-exact", "area", "bilinear", "bicubic"):
        functions |= {f"{mode} {size}": resized(size=size, mode=mode) for size in SIZES}
    for mode in ("bilinear", "bicubic"):
        functions |= {f"{mode} corners {size}": resized(size=size, mode=mode, align_corners=True) for size in SIZES[:3]}
        functions |= {f"{mode} antialias {size}": resized(size=size, mode=mode, antialias=True) for size in SIZES[:3]}
    require_pytorchs(functions, IMAGE)


def test_resizing_by_factors():
    functions = {}
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        for factor in (0.3, 0.5, 2.3, (2.0, 0.7)):
            functions[f"{mode} {factor}"] = resized(scale_factor=factor, mode=mode)
        again = {"recompute_scale_factor": True}
        functions[f"{mode} recomputed"] = resized(scale_factor=2.3, mode=mode, **again)
    require_pytorchs(functions, IMAGE)


def test_rows_and_volumes():
    require_pytorchs({mode: resized(scale_factor=1.7, mode=mode) for mode in ("nearest", "linear")}, ROW)
    functions = {mode: resized(size=(7, 4, 9), mode=mode) for mode in ("nearest", "nearest-exact", "trilinear", "area")}
    require_pytorchs(functions, VOLUME)


def sampled(mode, padding, align_corners=False):
    return lambda x, grid: F.grid_sample(x, grid, mode, padding, align_corners)


def test_sampling():
    modes = {
        "linear, zeros": sampled("bilinear", "zeros"),
        "linear, border, corners": sampled("bilinear", "border", True),
        "linear, reflected": sampled("bilinear", "reflection"),
        "nearest, zeros, corners": sampled("nearest", "zeros", True),
        "nearest, reflected": sampled("nearest", "reflection"),
    }
    theta = torch.tensor([[[0.9, 0.2, 0.1], [-0.1, 1.1, 0.0]]]).expand(2, 2, 3)
    functions = modes | {
        "affine": lambda x, grid: F.grid_sample(x, F.affine_grid(theta, (2, 4, 5, 5)), align_corners=False),
    }
    grid = torch.rand(2, 5, 6, 2, generator=GENERATOR) * 2.6 - 1.3
    require_pytorchs(functions, IMAGE, grid, tolerance=2e-5)
    grid = torch.rand(1, 3, 4, 2, 3, generator=GENERATOR) * 2.6 - 1.3
    in_volumes = {name: modes[name] for name in ("linear, zeros", "linear, reflected", "nearest, reflected")}
    require_pytorchs(in_volumes, VOLUME, grid, tolerance=2e-5)


def test_pools():
    functions = {
        "mean": lambda x: F.avg_pool2d(x, 2),
        "padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
        "inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        "rounded up": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True),
        "inside, rounded up": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        "of whole numbers": lambda x: F.avg_pool2d((x * 9).long(), 3, 2, 1, count_include_pad=False),
        "largest": lambda x: F.max_pool2d(x, 3, 2, 1),
        "largest, dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=(2, 3), ceil_mode=True),
        "with places": lambda x: F.max_pool2d(x, 3, 2, 1, return_indices=True),
        "undone": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=x.shape[2:]),
        "adaptive": lambda x: (F.adaptive_avg_pool2d(x, (3, 4)), F.adaptive_max_pool2d(x, (4, 5))),
        "adaptive places": lambda x: F.adaptive_max_pool2d(x, (2, 3), return_indices=True),
        "powers": lambda x: F.lp_pool2d(x.abs(), 2, 3, 2),
        "unbatched": lambda x: F.max_pool2d(x[0], 2),
    }
    require_pytorchs(functions, IMAGE)
    functions = {
        "mean": lambda x: F.avg_pool1d(x, 3, 2, 1),
        "largest": lambda x: F.max_pool1d(x, 3, 2, 1, ceil_mode=True),
        "adaptive": lambda x: (F.adaptive_avg_pool1d(x, 5), F.adaptive_max_pool1d(x, 4)),
    }
    require_pytorchs(functions, ROW)
    functions = {
        "mean": lambda x: F.avg_pool3d(x, 2, 2, 1, ceil_mode=True, count_include_pad=False),
        "largest": lambda x: F.max_pool3d(x, 2, return_indices=True),
        "adaptive": lambda x: (F.adaptive_avg_pool3d(x, (2, 4, 3)), F.adaptive_max_pool3d(x, (2, 3, 3))),
    }
    require_pytorchs(functions, VOLUME)


def test_windows_as_columns_and_back():
    functions = {
        "columns": lambda x: F.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=2),
        "back": lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), x.shape[2:], 3, padding=1, stride=2),
    }
    require_pytorchs(functions, IMAGE)


def test_transposed_convolutions():
    weight = torch.randn(4, 6, 3, 4, generator=GENERATOR)
    cases = (
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"stride": (1, 3), "padding": (0, 2)},
        {"stride": 2, "groups": 2, "padding": 4},
        {"stride": 2, "dilation": 2, "output_padding": 1},
        {"stride": 4, "output_padding": (0, 3)},
    )
    functions = {str(case): lambda x, w, case=case: F.conv_transpose2d(x, weight, **case) for case in cases}
    functions["computed"] = lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1)
    functions["computed, dilated"] = lambda x, w: F.conv_transpose2d(x, w, dilation=2)
    require_pytorchs(functions, IMAGE, weight)
    kernel = torch.randn(2, 3, 2, 3, 2, generator=GENERATOR)
    require_pytorchs({"volume": lambda x: F.conv_transpose3d(x, kernel, stride=2)}, VOLUME)


def test_products_and_norms():
    functions = {
        "addmm": lambda x: torch.addmm(x[0, 0], x[0, 1], x[0, 2, :, :7].new_ones(9, 9), beta=0.5, alpha=2),
        "addbmm": lambda x: torch.addbmm(x[0, 0, :, :7], x[0], x[0].transpose(1, 2), beta=0.5),
        "baddbmm": lambda x: torch.baddbmm(x[0, :, :, :7], x[0], x[0].transpose(1, 2), alpha=0.3),
        "sum and product": lambda x: x * 0.5 + F.linear(x, torch.eye(9) * 0.1),
        "whole": lambda x: (x * 9).long() @ (x * 9).long().transpose(2, 3),
        "half": lambda x: x[0, 0].half() @ x[0, 1].half().T,
        "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
        "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
        "layer norm": lambda x: F.layer_norm(x, (7, 9)),
        "group norm": lambda x: (F.group_norm(x, 2), F.instance_norm(x)),
        "batch norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)),
        "batch statistics": lambda x: F.batch_norm(x, None, None, training=True),
        "local": lambda x: F.local_response_norm(x, 3),
        "distances": lambda x: (torch.cdist(x[0], x[1]), F.cosine_similarity(x, x.flip(0)), F.pairwise_distance(x, -x)),
        "bilinear": lambda x: F.bilinear(x, x.flip(0), torch.ones(3, 9, 9) * 0.01),
    }
    require_pytorchs(functions, IMAGE, tolerance=1e-4)
