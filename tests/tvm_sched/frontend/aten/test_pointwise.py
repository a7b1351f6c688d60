"""Elementwise operators follow PyTorch's definitions and its promotion of types."""

import torch
import torch.nn.functional as F
from together import require_pytorchs

X = torch.linspace(-3, 3, 40).reshape(4, 10)
Y = X.flip(0).roll(3) * 0.7 + 0.05
WHOLE = torch.arange(-20, 20).reshape(4, 10)
POSITIVE = torch.arange(1, 41).reshape(4, 10) % 7 + 1
TRUTH = X > 0.4
BYTES = torch.arange(200, 240, dtype=torch.uint8).reshape(4, 10)


def test_functions_of_one_number():
    names = "abs neg exp sqrt rsqrt sigmoid tanh erf erfc sin cos tan sinh cosh asin acos atan asinh acosh atanh expm1"
    names += " log log1p log2 log10 exp2 lgamma floor ceil trunc round sign reciprocal isnan isinf isfinite signbit"
    functions = {name: getattr(torch, name) for name in names.split()}
    functions = {name: lambda x, y, f=f: f(x) for name, f in functions.items()}
    require_pytorchs(functions | {"decimals": lambda x, y: torch.round(x, decimals=1)}, X, Y)


def test_functions_of_two_numbers():
    names = "add sub mul div pow remainder fmod floor_divide maximum minimum fmax fmin atan2 hypot copysign lerp "
    names += "eq ne lt le gt ge logical_and logical_or logical_xor nextafter"
    functions = {name: getattr(torch, name) for name in names.split() if name != "lerp"}
    functions |= {
        "lerp": lambda x, y: torch.lerp(x, y, 0.3),
        "floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
        "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        "remainder of a number": lambda x, y: x % -0.7,
        "reversed": lambda x, y: 1 - x / 2,
    }
    require_pytorchs(functions, X, Y)


def test_whole_numbers_and_booleans_are_promoted():
    functions = {
        "quotient": lambda i, j, b: i / j,
        "fraction": lambda i, j, b: i * 0.5 + j,
        "power": lambda i, j, b: i**j,
        "cubed": lambda i, j, b: i**3,
        "of a number": lambda i, j, b: 0.9**i,
        "root": lambda i, j, b: j**0.5,
        "sine": lambda i, j, b: torch.sin(i),
        "down": lambda i, j, b: i // j,
        "cut": lambda i, j, b: torch.div(i, j, rounding_mode="trunc"),
        "rest": lambda i, j, b: i % j,
        "fmod": lambda i, j, b: torch.fmod(i, j),
        "bits": lambda i, j, b: (i & j) | (i ^ ~j),
        "shifts": lambda i, j, b: (j << 2) + (i >> 1),
        "compared": lambda i, j, b: i < 4.5,
        "scaled truth": lambda i, j, b: b * 2.5,
        "sum of truths": lambda i, j, b: b + b,
        "truth and truth": lambda i, j, b: (b == ~b, b ^ b, b & ~b, b | b, b.logical_xor(i > 0)),
        "share": lambda i, j, b: b.sum() / b.numel(),
        "mean": lambda i, j, b: b.float().mean(),
        "small": lambda i, j, b: i.to(torch.int8) + j.to(torch.uint8),
        "0-d": lambda i, j, b: i * torch.tensor(0.5, dtype=torch.float64),
        "chosen": lambda i, j, b: torch.where(b, i, 1.5),
        "larger truth": lambda i, j, b: torch.maximum(b, i > 3),
    }
    require_pytorchs(functions, WHOLE, POSITIVE, TRUTH)


def test_bytes_wrap_and_divide():
    functions = {
        "fraction": lambda x: x / 255,
        "wraps": lambda x: x + x,
        "float": lambda x: x.float() * 2,
        "cut": lambda x: (x.float() * 0.3).to(torch.uint8),
        "greater": lambda x: x > 210,
    }
    require_pytorchs(functions, BYTES)


def test_half_precision_computes_in_single_and_rounds():
    functions = {
        "sum": lambda x: x.half() + 0.1,
        "chain": lambda x: (x.half() * 3).sigmoid().float(),
        "brain": lambda x: x.bfloat16(),
        "brain chain": lambda x: (x.bfloat16() * 1.7 + x).float(),
        "mean": lambda x: x.half().mean(1),
        "double": lambda x: x.double().exp(),
    }
    require_pytorchs(functions, X, tolerance=1e-6)


def test_activations():
    names = "relu relu6 silu gelu elu selu celu leaky_relu softplus mish hardswish hardsigmoid hardtanh logsigmoid "
    names += "softsign tanhshrink hardshrink softshrink threshold"
    functions = {name: getattr(F, name) for name in names.split() if name != "threshold"}
    functions |= {
        "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
        "prelu": lambda x: F.prelu(x, torch.tensor([0.2])),
        "threshold": lambda x: F.threshold(x, 0.5, 2.0),
        "glu": F.glu,
        "clamp": lambda x: (x.clamp(-1, 1), x.clamp(min=0.5), x.clamp(max=-0.5), x.clamp(2, -2)),
        "clamp by tensors": lambda x: torch.clamp(x, x * 0.5, x * 0 + 1),
        "filled": lambda x: x.masked_fill(x > 0, -7.0),
        "nan_to_num": lambda x: torch.nan_to_num(x.log()),
    }
    require_pytorchs(functions, X)
