"""Calls of artifacts: what the module takes and gives, as NumPy arrays and as torch tensors, copied where needed."""

import collections
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import tvm_sched
from subp_contract.errors import UserError
from tvm_sched.deploy.entry import ALIGNMENT, WORTH, aligned, as_numpy
from tvm_sched.frontend.torch_export import to_array

Result = collections.namedtuple("Result", "mask half")


class Many(nn.Module):
    """Inputs of five dtypes by place and by keyword, nested; a dictionary, a namedtuple and constants out."""

    def __init__(self):
        super().__init__()
        self.conv, self.rows = nn.Conv2d(3, 16, 1), nn.Embedding(9, 16)

    def forward(self, image, boxes, n=3, *, index, options):
        y = self.conv(image) + boxes[0] * n
        z = y.relu() + self.rows(index)[:, :, None, None]
        if options["mask"] is not None:
            z = torch.where(options["mask"], z, -z)
        return {"out": z, "n": n, "aux": [boxes[1].float() * 2, None]}, Result(y > 0, z.half())


def example(seed=0):
    """(args, kwargs) for Many."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, 4, 5, generator=rng)
    boxes = (torch.randn(1, 16, 4, 5, generator=rng), torch.randint(0, 256, (7,), dtype=torch.uint8, generator=rng))
    options = {"mask": torch.randint(0, 2, (4, 5), dtype=torch.bool, generator=rng), "name": "a"}
    return (image, boxes, 2), {"index": torch.randint(1, 9, (1,), generator=rng), "options": options}


def arrays(tree):
    """The tree with arrays in place of its tensors."""
    return pytree.tree_map_only(torch.Tensor, to_array, tree)


def without_none(tree):
    """Many's result as a call with arrays gives it: what is None in a list is left out."""
    named, result = tree
    return {**named, "aux": named["aux"][:1]}, result


def require_same(made, wanted, kind):
    """Two trees of the same structure, `made` of tensors of that kind."""
    made, wanted = pytree.tree_flatten(made), pytree.tree_flatten(wanted)
    assert made[1] == wanted[1]
    for one, other in zip(made[0], wanted[0], strict=True):
        if isinstance(other, torch.Tensor):
            assert type(one) is kind and str(one.dtype).removeprefix("torch.") == str(other.dtype)[len("torch.") :]
            np.testing.assert_allclose(
                np.asarray(one), other.detach().numpy(), rtol=0, atol=2e-3 if one.itemsize == 2 else 1e-5
            )
        else:
            assert one == other


@pytest.fixture(scope="module")
def many():
    torch.manual_seed(0)
    return Many().eval()


@pytest.fixture(scope="module")
def artifact(many):
    args, kwargs = example()
    return tvm_sched.compile(many, args, kwargs, threads=1)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_call_is_the_modules(many, artifact, seed):
    args, kwargs = example(seed)
    with torch.no_grad():
        wanted = many(*args, **kwargs)
    require_same(artifact(*args, **kwargs), wanted, torch.Tensor)
    args, kwargs, wanted = *arrays((args, kwargs)), without_none(wanted)
    require_same(artifact(*args, **kwargs), wanted, np.ndarray)
    require_same(
        artifact(options=kwargs["options"], boxes=args[1], n=2, image=args[0], **{"index": kwargs["index"]}),
        wanted,
        np.ndarray,
    )


def test_one_torch_tensor_among_arrays_gives_torch_tensors(many, artifact):
    args, kwargs = example()
    with torch.no_grad():
        wanted = many(*args, **kwargs)
    mixed = (args[0], arrays(args[1]), 2)
    require_same(artifact(*mixed, **arrays(kwargs)), wanted, torch.Tensor)


def test_it_is_the_same_from_a_file(many, artifact, tmp_path):
    artifact.save(tmp_path / "net.so")
    loaded = tvm_sched.load(tmp_path / "net.so")
    assert loaded.manifest == artifact.manifest and loaded.signature == artifact.signature
    args, kwargs = example(3)
    with torch.no_grad():
        require_same(loaded(*args, **kwargs), many(*args, **kwargs), torch.Tensor)
    assert loaded.check() < 2e-3
    code = f"""
import tvm_sched
from tvm_sched.signature import check_inputs
net = tvm_sched.load({str(tmp_path / "net.so")!r})
image, *boxes, index, mask = check_inputs(net.signature.inputs, 0)
made, result = net(image, boxes, 2, index=index, options=dict(mask=mask, name="a"))
print(made["out"].shape, made["n"], result._fields)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 16, 4, 5) 2 ('mask', 'half')\n"


def test_the_manifest_lists_names_shapes_and_dtypes(artifact):
    inputs = {each["name"]: each for each in json.loads(json.dumps(artifact.manifest))["inputs"]}
    assert list(inputs) == ["image", "boxes_0", "boxes_1", "index", "options_mask"]
    assert inputs["index"] == {"name": "index", "shape": [1], "dtype": "int64", "range": [7, 7]}
    assert inputs["options_mask"]["dtype"] == "bool" and inputs["boxes_1"]["dtype"] == "uint8"
    outputs = [(each["name"], each["dtype"]) for each in artifact.manifest["outputs"]]
    assert outputs == [
        ("output_0_out", "float32"),
        ("output_0_aux_0", "float32"),
        ("output_1_mask", "bool"),
        ("output_1_half", "float16"),
    ]
    assert [len(each) for each in artifact.manifest["check"]["outputs"]] == [320, 7, 320, 320]


def test_the_check_sees_every_output(artifact):
    for place, sign in ((1, 1), (2, -1), (3, 1)):
        wrong = tvm_sched.Artifact(artifact._executable, json.loads(json.dumps(artifact.manifest)))
        outputs = wrong.manifest["check"]["outputs"]
        outputs[place][5] = not outputs[place][5] if place == 2 else outputs[place][5] + sign
        assert wrong.check() == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda a, k: ((a[0][0], *a[1:]), k),
            r"'image' must be .*\[1, 3, 4, 5\] of float32, not a torch .*\[3, 4, 5\]",
        ),
        (lambda a, k: ((a[0].double(), *a[1:]), k), "not a torch tensor, .* of float64"),
        (
            lambda a, k: (a, k | {"index": k["index"].int().numpy()}),
            r"'index' must .* \[1\] of int64, not \[1\] of int32",
        ),
        (lambda a, k: (a[:2], k), "input 'n' is missing"),
        (lambda a, k: ((*a[:2], 3), k), "input 'n' is 3; the network was compiled for 2 there"),
        (lambda a, k: (a, {"index": k["index"]}), "input 'options' is missing"),
        (lambda a, k: (a, k | {"options": {"mask": None}}), "'options' must be a dict with the keys mask, name"),
        (lambda a, k: (a, k | {"options": {"mask": None, "name": "a"}}), "input 'options_mask' must be .*, not None"),
        (lambda a, k: (a, k | {"scale": 1}), "takes no input 'scale'"),
        (lambda a, k: ((a[0], list(a[1]) * 2, 2), k), "'boxes' must be a tuple of 2, not list of 4"),
    ],
)
def test_a_wrong_call_is_told(artifact, change, words):
    args, kwargs = change(*example())
    with pytest.raises(UserError, match=words) as caught:
        artifact(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_a_flat_call_takes_and_gives_lists(many, artifact):
    args, kwargs = example(2)
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    with torch.no_grad():
        wanted = [leaf for leaf in pytree.tree_leaves(many(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    require_same(artifact.run_flat([to_array(each) for each in given]), wanted, np.ndarray)
    with pytest.raises(UserError, match=r"4 inputs were given; the network takes 5 \(image, boxes_0, .*\)"):
        artifact.run_flat(given[:4])


@pytest.fixture(scope="module")
def scaling():
    """An artifact whose results tell whether its input was read, and when."""
    return tvm_sched.compile(Doubles(), torch.zeros(4, 16), threads=1)


class Doubles(nn.Module):
    def forward(self, x):
        return x * 2


def spied(artifact, monkeypatch):
    """The tensors that the compiled function gets from now on."""
    artifact(np.zeros(artifact.signature.inputs[0].shape, "float32"))
    entry, taken = artifact.shapes[0].entry, []
    function = entry.main
    monkeypatch.setattr(entry, "main", lambda *given: taken.append(given[0]) or function(*given))
    return taken


def test_a_torch_tensor_goes_in_and_out_without_a_copy(scaling, monkeypatch):
    taken = spied(scaling, monkeypatch)
    x = torch.randn(4, 16)
    assert x.data_ptr() % ALIGNMENT == 0
    y = scaling(x)
    assert torch.equal(y, x * 2) and taken[0].data_ptr() == x.data_ptr()
    y[:] = 7  # the caller's own
    assert torch.equal(scaling(x), x * 2)


def test_a_large_array_that_begins_where_it_should_goes_in_without_a_copy(monkeypatch):
    artifact = tvm_sched.compile(Doubles(), torch.zeros(4, WORTH // 16), threads=1)
    taken = spied(artifact, monkeypatch)
    whole = aligned((4, WORTH // 16), np.dtype("float32"))
    whole[...] = np.random.default_rng(0).standard_normal(whole.shape)
    frozen, elsewhere = whole[:], np.empty(whole.size + 1, "float32")[1:].reshape(whole.shape)
    frozen.flags.writeable = False
    elsewhere[...] = whole
    for x, copied in ((whole, False), (frozen, True), (elsewhere, True), (np.asfortranarray(whole), True)):
        np.testing.assert_array_equal(artifact(x), whole * 2)
        assert (as_numpy(taken[-1]).ctypes.data != x.ctypes.data) == copied


@pytest.mark.parametrize(
    "given",
    [
        lambda: torch.randn(65)[1:].reshape(4, 16),  # begins elsewhere
        lambda: torch.randn(16, 4).T,
        lambda: torch.randn(4, 16, requires_grad=True),
        lambda: nn.Parameter(torch.randn(4, 16)),
        lambda: torch.randn(1, 16).expand(4, 16),
        lambda: torch.randn(4, 16, dtype=torch.complex64).conj().imag,
    ],
)
def test_other_torch_tensors_are_read_as_they_look(scaling, given):
    x = given()
    y = scaling(x)
    assert not y.requires_grad and torch.equal(y, x.detach() * 2)


def test_what_is_no_result_of_a_call_is_copied():
    class Gives(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(16.0))

        def forward(self, x):
            return x, self.table, x + 1, x.view(2, 8)

    artifact = tvm_sched.compile(Gives(), torch.zeros(16), threads=1)
    x = torch.randn(16)
    for given in (x, x.numpy()):
        for _ in range(2):  # what the caller does to results stays with the caller
            same, table, more, view = artifact(given)
            np.testing.assert_array_equal(np.asarray(same), x)
            np.testing.assert_array_equal(np.asarray(table), np.arange(16))
            np.testing.assert_array_equal(np.asarray(more), x + 1)
            np.testing.assert_array_equal(np.asarray(view), x.view(2, 8))
            for each in (same, table, more, view):
                each[:] = 5
    assert not (x == 5).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int8, torch.uint8, torch.int32, torch.bool])
def test_every_dtype_goes_in_and_out(dtype):
    class Same(nn.Module):
        def forward(self, x, y):
            return torch.cat([x, y]), y.float().sum()

    x, y = torch.arange(-3, 3).reshape(2, 3).to(dtype), torch.ones(1, 3, dtype=dtype)
    artifact = tvm_sched.compile(Same(), (x, y), threads=1)
    require_same(artifact(x, y), (torch.cat([x, y]), torch.tensor(3.0)), torch.Tensor)
    require_same(artifact(x.numpy(), y.numpy()), (torch.cat([x, y]), torch.tensor(3.0)), np.ndarray)
    assert artifact.check() == 0


def test_bfloat16_goes_in_and_out():
    class Same(nn.Module):
        def forward(self, x, y):
            return torch.cat([x, y])

    x, y = torch.tensor([[-1.5, 3e38]], dtype=torch.bfloat16), torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    artifact = tvm_sched.compile(Same(), (x, y), threads=1)
    assert torch.equal(artifact(x, y), torch.cat([x, y]))
    made = artifact(to_array(x), to_array(y))
    assert made.dtype.name == "bfloat16" and np.array_equal(made, to_array(torch.cat([x, y])))
    assert artifact.check() == 0


class Joined(nn.Module):
    """Two batches joined, and the sum over the second."""

    def forward(self, x, y):
        return torch.cat([x, y]), y.sum(0)


@pytest.mark.parametrize("shapes", [((2, 3), (0, 3)), ((2, 0, 4), (3, 0, 4))])
def test_an_input_without_elements(shapes):
    x, y = map(torch.randn, shapes)
    artifact = tvm_sched.compile(Joined(), (x, y), threads=1)
    require_same(artifact(x, y), Joined()(x, y), torch.Tensor)
    require_same(artifact(x.numpy(), y.numpy()), Joined()(x, y), np.ndarray)


def test_a_batch_in_parts_takes_tensors_and_gives_structures(monkeypatch):
    monkeypatch.setattr("tvm_sched.frontend.batches.TENSORS", 1 << 20)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)

        def forward(self, x):
            y = self.conv(x)
            return {"maps": y, "means": y.mean((2, 3))}

    torch.manual_seed(0)
    module, x = Pair().eval(), torch.randn(4, 3, 6, 6)
    artifact = tvm_sched.compile(module, x, threads=1)
    assert artifact.manifest["parts"] == 4
    assert [each["shape"] for each in artifact.manifest["outputs"]] == [[4, 16, 4, 4], [4, 16]]
    with torch.no_grad():
        wanted = module(x)
    require_same(artifact(x), wanted, torch.Tensor)
    require_same(artifact(x.numpy()), wanted, np.ndarray)
    assert artifact.check() < 1e-5


def test_states_of_a_recurrent_layer_are_inputs():
    layer = nn.LSTM(6, 16, batch_first=True).eval()
    x, states = torch.randn(2, 5, 6), (torch.randn(1, 2, 16), torch.randn(1, 2, 16))
    artifact = tvm_sched.compile(layer, (x, states), threads=1)
    with torch.no_grad():
        require_same(artifact(x, states), layer(x, states), torch.Tensor)
        require_same(artifact(x, hx=states), layer(x, states), torch.Tensor)


def test_a_module_that_writes_into_its_input_leaves_the_callers():
    class Adds(nn.Module):
        def forward(self, x):
            return x.add_(1) * 2

    artifact = tvm_sched.compile(Adds(), torch.zeros(16), threads=1)
    x = torch.zeros(16)
    assert (artifact(x) == 2).all() and (x == 0).all()
    assert artifact.check() == 0


def test_an_exported_program_of_several_inputs(many, artifact):
    args, kwargs = example()
    program = torch.export.export(many, args, kwargs)
    other = tvm_sched.compile(program, threads=1)
    assert other.signature == artifact.signature
    with torch.no_grad():
        require_same(other(*args, **kwargs), many(*args, **kwargs), torch.Tensor)
