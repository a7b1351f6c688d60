"""The three products of a training step against PyTorch's in float64, for convolutions of any kind."""

import random
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.grad import conv2d_input, conv2d_weight

from tvm_sched.products import building, library, tiles, workers
from tvm_sched.products.problem import Norm, Problem
from tvm_sched.products.product import NORMS, PRODUCTS, Product, folder, why_not

GUARD = 1023  # numbers around a result, which nobody may write; it begins at no multiple of a vector


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(workers, "build", lambda products: None)


def drawn(seed: int) -> tuple[Problem, int, int]:
    """(a problem, blocks kept in a row, threads), at random."""
    draws = random.Random(seed)
    while True:
        n, groups = draws.choice([1, 2, 4, 8, 12, 16, 32]), draws.choice([1, 1, 1, 2, 3])
        kernel = draws.choice([(1, 1), (1, 1), (3, 3), (3, 3), (2, 2), (5, 5), (1, 3), (5, 2)])
        whole = kernel == (1, 1) and draws.random() < 0.5  # images of whole vectors: used where they lie
        image = (draws.choice([4, 8]), draws.choice([8, 12])) if whole else (draws.randint(1, 19), draws.randint(1, 19))

        def pair(least: int, most: int, default: int, whole=whole, draws=draws) -> tuple[int, int]:
            return (default, default) if whole else (draws.randint(least, most), draws.randint(least, most))

        problem = Problem(
            batch=draws.choice([1, 2, 3, 4, 6, 16, 20]),
            channels=groups * draws.randint(1, 20),
            outputs=groups * n * draws.randint(1, 3),
            image=image,
            kernel=kernel,
            stride=pair(1, 3, 1),
            padding=pair(0, 3, 0),
            dilation=pair(1, 3, 1),
            groups=groups,
            n=n,
            dtype=draws.choice(["float32", "float32", "float64"]),
        )
        if why_not(problem) is None:
            return problem, draws.randint(1, problem.inputs), draws.choice([1, 2])


def guarded(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(memory, a tensor of that shape in the middle of it): NaN within, 7 around."""
    memory = like.new_full((like.numel() + 2 * GUARD,), 7.0)
    inside = memory[GUARD:-GUARD].view(like.shape)
    inside.fill_(torch.nan)
    return memory, inside


def lines(images: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] as [B * H * W, C]."""
    return images.movedim(1, -1).flatten(0, -2).contiguous()


def check(problem: Problem, kept: int, threads: int, relative: float | None = None) -> None:
    p, dtype, draws = problem, getattr(torch, problem.dtype), torch.Generator().manual_seed(0)
    index = torch.rand(p.block_rows, p.inputs, generator=draws).argsort(1)[:, :kept].sort(1).values.int().contiguous()
    mask = torch.zeros(p.block_rows, p.inputs, dtype=torch.bool).scatter_(1, index.long(), True)
    mask = mask.repeat_interleave(p.n, 0)[:, :, None, None]
    x = torch.randn(p.batch, p.channels, *p.image, generator=draws).to(dtype)
    weight = torch.randn(p.outputs, p.inputs, *p.kernel, generator=draws).to(dtype)
    dy = torch.randn(p.batch, p.outputs, *p.output, generator=draws).to(dtype)
    conv = p.stride, p.padding, p.dilation, p.groups
    zeroed = weight.double() * mask
    expected = {
        "forward": torch.conv2d(x.double(), zeroed, None, *conv),
        "input_gradient": conv2d_input(x.shape, zeroed, dy.double(), *conv),
        "weight_gradient": conv2d_weight(x.double(), weight.shape, dy.double(), *conv) * mask,
    }
    if p.turned:
        x, dy = lines(x), lines(dy)
        expected |= {kind: lines(expected[kind]) for kind in ("forward", "input_gradient")}
    operands = {"forward": (x, weight), "input_gradient": (dy, weight), "weight_gradient": (x, dy)}
    limit = relative or {"float32": 1e-5, "float64": 1e-13}[p.dtype]
    for kind, right in expected.items():
        memory, result = guarded(right.to(dtype))
        arguments = [each.contiguous() for each in (*operands[kind], index)]
        library.call(Product(kind, p, threads), *arguments, kept, result)
        error = (result.double() - right).abs().max().item()
        assert error <= limit * max(right.abs().max().item(), 1e-30), (kind, p, kept, threads)
        assert (memory[:GUARD] == 7).all() and (memory[-GUARD:] == 7).all(), (kind, p)


@pytest.mark.parametrize("seed", range(12))
def test_products_are_pytorchs(seed):
    check(*drawn(seed))


@pytest.mark.parametrize(
    "problem",
    [
        Problem(2, 6, 8, (9, 9), (3, 3), (2, 2), (1, 1), n=4),
        Problem(2, 24, 24, (7, 7), (3, 3), (1, 1), (1, 1), groups=24, n=1),
        Problem(4, 20, 32, (7, 7), n=16),
        Problem(2, 20, 32, (8, 8), n=16),
        Problem(1, 3, 16, (5, 9), (3, 3), (3, 3), (0, 2), (2, 1)),  # phases that some rows alone read
        Problem(32, 5, 16, (2, 2), (3, 3), (1, 1), (1, 1)),
        Problem(24, 6, 8, (4, 3), (3, 3), (2, 2), (1, 1), groups=2, n=4),
        Problem(40, 3, 8, (5, 4), (2, 1), (3, 2), (0, 0), (2, 1), n=4, dtype="float64"),
        Problem(2, 20, 32, (1, 37), n=16, turned=True),
        Problem(6, 33, 24, (1, 8), n=12, turned=True),
        Problem(3, 16, 32, (1, 64), n=32, dtype="float64", turned=True),
    ],
    ids=["stride", "depthwise", "side by side", "in place", "phases"]
    + [f"interleaved{kind}" for kind in ("", " in groups with strides", " with pixels that nobody reads")]
    + ["linear", "linear of 12", "linear of 32"],
)
def test_kinds_of_convolutions(problem):
    check(problem, max(1, problem.inputs // 3), threads=2)


def test_one_function_serves_every_number_of_kept_blocks(monkeypatch):
    problem = Problem(2, 20, 32, (5, 5), (3, 3), padding=(1, 1))
    built = []
    monkeypatch.setattr(building, "executable", lambda each, own=building.executable: built.append(1) or own(each))
    for kept in (1, 7, 20):
        check(problem, kept, threads=1)
    assert len(built) == 3


@pytest.mark.parametrize(
    "norm", [Norm(3, 5, 7), Norm(2, 3, 144), Norm(1, 2, 300), Norm(4, 3, 49, "float64")], ids=lambda norm: norm.key()
)
def test_batch_norms_are_those_of_float64(norm):
    dtype, draws = getattr(torch, norm.dtype), torch.Generator().manual_seed(0)
    shape = norm.batch, norm.channels, norm.pixels
    x, dy = (torch.randn(shape, generator=draws).mul(3).add(middle).to(dtype) for middle in (20.0, 0.5))
    weight, bias = (torch.randn(norm.channels, generator=draws).to(dtype) for _ in range(2))
    exact = [each.double().requires_grad_() for each in (x, weight, bias)]
    expected = torch.nn.functional.batch_norm(exact[0], None, None, *exact[1:], training=True, eps=0.01)
    gradients = torch.autograd.grad(expected, exact, dy.double())
    memory, y = guarded(x)
    mean, variance, dweight, dbias = (torch.full_like(weight, torch.nan) for _ in range(4))
    library.call(Product("batch_norm", norm, 1), x, weight, bias, 0.01, y, mean, variance)
    limit = {"float32": 3e-6, "float64": 1e-13}[norm.dtype]
    torch.testing.assert_close(y.double(), expected.detach(), rtol=limit, atol=limit)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2)), rtol=limit, atol=0)
    torch.testing.assert_close(variance.double(), x.double().var((0, 2), correction=0), rtol=limit, atol=0)
    other, dx = guarded(x)
    given = x, dy, weight, mean, (variance + 0.01).rsqrt()
    library.call(Product("batch_norm_backward", norm, 1), *given, dx, dweight, dbias)
    for ours, right in zip((dx, dweight, dbias), gradients, strict=True):
        assert (ours.double() - right).abs().max() <= 30 * limit * right.abs().max()
    assert all((each[:GUARD] == 7).all() and (each[-GUARD:] == 7).all() for each in (memory, other))


@pytest.mark.parametrize("name", ["x86-avx2", "x86-avx512", "cortex-a76"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_register_tiles_fit_the_registers_and_divide_what_they_must(name, dtype):
    from tvm_sched import targets

    target = targets.get(name)
    for seed in range(40):
        problem = tiles.interleaved(replace(drawn(seed)[0], dtype=dtype), target, 2)
        for kind in PRODUCTS:
            tile = building.BUILDERS[kind][1](problem, target, 2)
            sums = tile.outputs * (tile.vectors if kind != "weight_gradient" else tile.blocks * tile.taps)
            assert sums < target.registers
            assert problem.n % tile.outputs == 0 and problem.kernel[1] % tile.taps == 0
            assert problem.batch // tiles.shares(problem, 2) % tile.images == 0


def test_images_of_few_pixels_are_interleaved():
    from tvm_sched import targets

    def chosen(problem: Problem, threads: int = 1, name: str = "x86-avx512") -> Problem:
        return tiles.interleaved(problem, targets.get(name), threads)

    tiny = Problem(64, 512, 512, (2, 2), (3, 3), (1, 1), (1, 1))
    assert chosen(tiny) == replace(tiny, batch=4, interleaved=16)  # vectors are whole, and no more images than that
    assert chosen(tiny, name="x86-avx2") == tiny  # whose rows and what lies between fill a vector of 8
    assert chosen(replace(tiny, batch=40), threads=2) == replace(tiny, batch=4, interleaved=10)  # 2 for each thread
    for other in (replace(tiny, image=(56, 56)), replace(tiny, batch=6), replace(tiny, kernel=(1, 1), padding=(0, 0))):
        assert chosen(other) == other
    assert chosen(replace(tiny, channels=2**15)).interleaved == 1  # planes of 16 images would leave the second cache


def test_what_there_are_no_products_for_is_told():
    assert "blocks of 16 do not divide" in why_not(Problem(1, 4, 24, (4, 4), n=16))
    assert "larger than the image" in why_not(Problem(1, 4, 16, (4, 4), (5, 5)))
    assert "not unrolled" in why_not(Problem(1, 4, 16, (9, 9), (7, 7)))
    assert "32 bits" in why_not(Problem(1024, 64, 64, (224, 224)))


def test_processes_build_for_others_and_end_when_nothing_comes(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "executable", None)  # nothing is built here
    problem, told = Problem(1, 4, 16, (4, 4)), []
    wanted = [Product(kind, problem, 1) for kind in PRODUCTS]
    workers.build([*wanted, wanted[0]], lambda *done: told.append(done))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert {path.name for path in folder().iterdir()} == {".building", *(each.path.name for each in wanted)}
    monkeypatch.setitem(sys.modules, "tvm_ffi", None)  # what is built runs without TVM
    check(problem, 2, threads=1)
    with pytest.raises(RuntimeError, match=r"forward.*Expected 5 arguments"):
        library.call(wanted[0], 1)
    workers.build(wanted, lambda *_: pytest.fail("they are there"))
    (worker, *_) = workers._pool.idle
    worker.process.kill()  # a worker that has ended is replaced
    worker.process.wait()
    workers.build([Product(NORMS[0], Norm(1, 2, 16), 1)])
    assert len(list(folder().glob("*.so"))) == 4
    while workers._pool.idle:
        workers._pool.idle.pop().end()


def test_where_nothing_can_be_kept_the_process_builds_for_itself(monkeypatch, tmp_path):
    monkeypatch.undo()
    (tmp_path / "subp").write_text("a file is in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(workers, "Worker", None)
    check(Problem(1, 4, 16, (4, 4)), 2, threads=1)
