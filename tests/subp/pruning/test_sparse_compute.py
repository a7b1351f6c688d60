"""Steps without the pruned blocks, against PyTorch's of the masked weight."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from subp.data import loaders
from subp.pruning import masking, sparse_compute
from subp.pruning.sparsifier import Sparsifier
from subp.sparse_products import choice
from subp.training import trainer
from subp.training.config import Config
from subp.training.progress import Progress
from subp_contract.errors import Notice, UserError
from tvm_sched.products import library


@pytest.fixture(autouse=True)
def everything_sparse(monkeypatch, tmp_path_factory):
    """Whatever may run by kernels does, however long it takes; what is built stays for the module's other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice, "_least", lambda *calls: (1.0, 2.0))


def network(soft, **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.Conv2d(32, 64, 1, stride=2, bias=True),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding="same", groups=64),
        nn.Conv2d(64, 32, 3, padding=1, groups=2, dilation=2, bias=False),
        nn.Flatten(2),
        nn.Linear(4, 32),
        nn.Flatten(),
        nn.Linear(32 * 32, 5),
    )
    options = {"n": 16, "sparsity": 0.75, "epochs": 2, "soft": soft, "decay": 0.01} | options
    return model, Sparsifier(model, **options)


X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def results(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters())]


def close(got, expected, relative):
    """Within `relative` of each tensor's largest number, or a hundredth of the largest of all: the gradient of a bias
    before a batch norm is nothing but rounding.
    """
    least = 0.01 * max(theirs.abs().max().item() for theirs in expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).abs().max() <= relative * max(theirs.abs().max().item(), least)


ALL = "kernels: forward 2.0x, input gradient 2.0x, weight gradient 2.0x"
TWO = ALL.replace("weight gradient 2.0x", "weight gradient dense")


@pytest.mark.parametrize("soft, options", [(True, {}), (True, {"decay": 0.0}), (False, {})])
def test_outputs_and_gradients_equal_those_of_the_masked_layers(soft, options):
    model, sparsifier = network(soft, **options)
    sparsifier.step(1)
    expected = results(copy.deepcopy(model), X)
    assert sparse_compute.attach(model) == 3  # besides the depthwise convolution and the batch norm
    computing = copy.deepcopy(model)
    close(results(computing, X), expected, 1e-5)
    told = [sparse_compute.computation(computing)[id(computing[i])] for i in (1, 4, 5, 7)]
    masked = TWO if soft else ALL
    assert told == [masked, ALL, masked, masked]
    assert sparse_compute.computation(computing)[id(computing[2])] == "kernels: batch norm 2.0x"


def clipped_steps(model, x):
    """The weights after a few steps whose gradients are accumulated over two parts, and clipped."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        for part in x.split(4):
            model(part).square().mean().backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.01) > 0.01
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_accumulated_and_clipped_gradients_move_weights_as_the_masked_layers_do():
    model, sparsifier = network(soft=False)
    sparsifier.step(1)
    computing = copy.deepcopy(model)
    sparse_compute.attach(computing)
    x = torch.cat([X, X.flip(0) * 2])
    start = [parameter.detach().clone() for parameter in model.parameters()]
    moved = [
        [now - then for now, then in zip(clipped_steps(each, x), start, strict=True)] for each in (computing, model)
    ]
    close(*moved, 1e-4)


def test_other_layouts_and_precisions_are_converted_and_told():
    model, sparsifier = network(soft=False)
    sparsifier.step(1)
    expected = results(copy.deepcopy(model), X)
    sparse_compute.attach(model)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    close(results(turned, X.to(memory_format=torch.channels_last)), expected, 1e-5)
    assert sparse_compute.computation(turned)[id(turned[1])] == f"{ALL}, of a contiguous copy"
    with torch.autocast("cpu", torch.bfloat16):
        y = model[5](X.new_ones(4, 64, 5, 5, dtype=torch.bfloat16))
        assert y.dtype == torch.float32
        close([y], [masking.fold(copy.deepcopy(model[5]))(X.new_ones(4, 64, 5, 5)).float()], 1e-2)
    assert sparse_compute.computation(model)[id(model[5])] == f"{ALL}, in float32"
    model[5](X.new_ones(4, 64, 5, 5)).sum().backward()
    assert sparse_compute.computation(model)[id(model[5])] == ALL
    with pytest.raises(RuntimeError, match="type"):  # PyTorch's own words
        model[5](X.new_ones(4, 64, 5, 5, dtype=torch.bfloat16))
    assert sparse_compute.computation(model)[id(model[5])] == "dense: only for float32 on a CPU"


def test_torch_compile_keeps_the_products_whole():
    model, sparsifier = network(soft=False)
    sparsifier.step(1)
    sparse_compute.attach(model)
    expected, seen = results(copy.deepcopy(model), X), []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    compiled = torch.compile(model, backend=backend)
    close(results(compiled, X), expected, 1e-5)
    assert sum("subp.block_conv2d" in each for each in seen) == 3
    assert {"subp.block_linear.default", "subp.batch_norm.default"} <= set(seen)
    mask = masking.mask_of(model[1]).mask
    mask.copy_(mask.roll(1, dims=1))
    sparse_compute.detach(twin := copy.deepcopy(model))
    close([compiled(X)], [twin(X)], 1e-5)


def test_evaluations_build_nothing(monkeypatch):
    model, sparsifier = network(soft=False)
    sparsifier.step(1)
    expected = copy.deepcopy(model)
    sparse_compute.attach(model)
    monkeypatch.setattr(choice.workers, "build", lambda *_: pytest.fail("it builds"))
    with torch.no_grad():
        close([model(X[:3])], [expected(X[:3])], 1e-6)
    assert sparse_compute.computation(model)[id(model[1])] == "not run yet"


def test_what_steps_will_ask_for_is_built_beforehand(monkeypatch):
    model, sparsifier = network(soft=False)
    sparsifier.step(1)
    sparse_compute.attach(model)
    built, own, before = [], choice.workers.build, copy.deepcopy(model.state_dict())
    monkeypatch.setattr(choice.workers, "build", lambda wanted, tell: built.extend(wanted) or own(wanted, tell))
    sparse_compute.prepare(model, X)
    assert len(set(built)) == 4 * 3 + 2 and all(each.path.exists() for each in built)
    assert model.training and all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    monkeypatch.setattr(
        choice.workers, "build", lambda wanted, tell: None if set(wanted) <= set(built) else pytest.fail()
    )
    results(model, X)


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"track_running_stats": False}, {"eps": 0.1}])
@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (2, 4, 16, 16)])
def test_batch_norms_and_their_running_statistics_are_pytorchs(options, shape):
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(4, **options)
    nn.init.normal_(plain.weight)
    ours = copy.deepcopy(plain)
    assert sparse_compute.attach(nn.Sequential(ours)) == 0
    for step in range(3):
        x, dy = torch.randn(shape) * 3 + 20, torch.randn(shape)
        found = []
        for each in (ours, plain):
            given = x.clone().requires_grad_()
            y = each(given)
            found.append([y.detach(), *torch.autograd.grad(y, [given, *each.parameters()], dy)])
        close(*found, 1e-5)
        close([*ours.buffers()], [*plain.buffers()], 1e-6) if step and plain.running_mean is not None else None
    for each in (ours, plain):
        each.eval()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-4)
    ours.train()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ours(torch.ones(1, 4, 1, 1))


def test_masks_that_follow_their_weights_and_those_that_look_at_gradients():
    def largest(weight, mask):
        sums = weight.abs().view(2, 16, 32, -1).sum((1, 3))
        return sums >= sums.sort(1, descending=True).values[:, 7:8]

    torch.manual_seed(0)
    layer = nn.Conv2d(32, 32, 3)
    mask = masking.attach(layer, (2, 32), soft=False, decay=0.0, follow=largest, average_gradients=True)
    computing = copy.deepcopy(layer)
    sparse_compute.attach(computing)
    x = torch.randn(2, 32, 6, 6)
    for _ in range(2):  # of which the second has other masks
        close(results(computing, x), results(layer, x), 1e-5)
        assert mask.mask.sum(1).tolist() == [8, 8]
        torch.testing.assert_close(masking.mask_of(computing).gradient, mask.gradient, rtol=1e-4, atol=1e-3)
        for each in (layer, computing):
            with torch.no_grad():
                weight = masking.trained_weight(each)
                weight.copy_(weight.roll(1, dims=1))
            each.zero_grad()


def test_the_sparsifier_attaches_says_how_layers_compute_and_detaches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1), nn.Flatten(), nn.Linear(32 * 81, 5))
    sparsifier = Sparsifier(model, n=16, sparsity=0.75, epochs=2, soft=False, sparse_compute="kernels")
    sparsifier.step(0)
    model(X)
    assert [row.computes for row in sparsifier.summary()][1] == "dense: more than 75% of its blocks are kept"
    sparsifier.step(1)
    expected = masking.fold(copy.deepcopy(model))(X)
    torch.testing.assert_close(model(X), expected, rtol=1e-5, atol=1e-5)
    assert [row.computes for row in sparsifier.summary()][1].startswith("kernels: forward 2.0x")
    sparsifier.fold()
    assert not any("forward" in vars(layer) for layer in model.modules())
    with pytest.raises(UserError, match="sparse_compute is one of kernels, not 'gather'"):
        Sparsifier(model, n=16, epochs=2, sparse_compute="gather")


def test_uneven_masks_compute_densely():
    model, sparsifier = network(soft=True)
    sparsifier.step(1)
    sparsifier.masks["1"][0] = False
    expected = model(X)
    sparse_compute.attach(model)
    close([model(X)], [expected], 1e-6)
    assert sparse_compute.computation(model)[id(model[1])] == "dense: its rows keep unequally many blocks"


def test_a_mask_that_moves_is_followed_in_a_copy_too():
    model, sparsifier = network(soft=True)
    sparsifier.step(1)
    sparse_compute.attach(model)
    model(X)
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(sparse_compute._State()))):
        if isinstance(twin, nn.Module):
            mask = masking.mask_of(twin[1]).mask
            mask.copy_(mask.roll(1, dims=1))
            expected = copy.deepcopy(twin)
            sparse_compute.detach(expected)
            close([twin(X)], [expected(X)], 1e-5)
        else:
            assert twin == sparse_compute._State()


def test_a_copy_computes_with_weights_of_its_own_and_detaching_leaves_plain_layers():
    model, sparsifier = network(soft=True)
    sparsifier.step(1)
    sparse_compute.attach(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        masking.trained_weight(model[1]).zero_()
    x = torch.randn(1, 32, 2, 2)
    assert not (model[1](x) - model[1].bias[:, None, None]).any() and twin[1](x).any()
    sparse_compute.detach(twin)
    masking.fold(twin)
    assert "forward" not in vars(twin[1]) and type(twin[1]) is nn.Conv2d


@pytest.mark.parametrize("damage", ["{", "[]", '{"other": {"forward": [0.0, 1.0]}}', '{"other": {"forward": 1.0}}'])
def test_the_faster_of_both_is_chosen_by_product_and_kept_on_disk(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds = iter([(1.0, 2.0), (3.0, 2.0), (1.0, 4.0)] * 2)
    monkeypatch.setattr(choice, "_least", lambda *calls: next(seconds))
    problem = choice.Problem(1, 32, 16, (4, 4))
    told = "kernels: forward 2.0x, input gradient dense, weight gradient 4.0x"
    assert str(choice.choose(problem, 5)) == told
    choice._known.clear()
    assert str(choice.choose(problem, 8)) == told  # the same eighth, measured by the run before
    (path,) = (tmp_path / "subp" / "products").glob("*.json")
    path.write_text(damage)
    choice._known.clear()
    with pytest.warns(Notice, match=f"^{path} is .*; it begins anew, and what it held is measured again$"):
        assert str(choice.choose(problem, 5)) == told
    choice._known.clear()
    assert str(choice.choose(problem, 5)) == told and next(seconds, None) is None  # kept again, measured once


DATA = loaders.from_tensors(*[(torch.rand(8, 3, 7, 7), torch.arange(8) % 5)] * 2, list("abcde"))
CONFIG = Config(n=16, epochs=3, batch_size=4, accumulate=2, lr=0.01, ema=0.5)


def plain():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 1, stride=2), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 32, 3)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 5))


@pytest.mark.parametrize("soft", [True, False])
def test_a_run_gives_the_weights_of_the_dense_computation(soft):
    config = replace(CONFIG, soft=soft)
    dense, sparse = (
        trainer.train(DATA, replace(config, sparse_compute=way), model=plain()) for way in (None, "kernels")
    )
    assert not any("forward" in vars(layer) for layer in sparse.model)
    for name, expected in dense.model.state_dict().items():
        torch.testing.assert_close(sparse.model.state_dict()[name], expected, rtol=1e-4, atol=1e-6)


class Killed(Progress):
    """Ends the run in the midst of its second epoch."""

    steps = 0

    def advance(self):
        self.steps += 1
        if self.steps == 3:
            raise KeyboardInterrupt


def test_a_run_that_is_cut_off_and_resumed_gives_the_bits_of_one_that_is_not(tmp_path):
    config = replace(CONFIG, soft=False, sparse_compute="kernels")
    whole = trainer.train(DATA, config, model=plain())
    with pytest.raises(KeyboardInterrupt):
        trainer.train(DATA, config, model=plain(), output=tmp_path, progress=Killed.silent())
    choice._known.clear()  # as a process that begins knows nothing
    library._function.cache_clear()
    resumed = trainer.train(DATA, config, model=plain(), output=tmp_path, resume=True)
    assert len(resumed.history) == 3
    for name, expected in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], expected), name


def test_what_it_is_not_for_is_told():
    for options in ({"amp": "bf16"}, {"channels_last": True}, {"compile": True}):
        with pytest.raises(UserError, match="sparse_compute is for float32 on a CPU"):
            trainer.train(DATA, replace(CONFIG, sparse_compute="kernels", **options), model=plain())
    with pytest.raises(UserError, match="sparse_compute would change nothing"):
        trainer.train(DATA, replace(CONFIG, sparse_compute="kernels", method="dense"), model=plain())
    with pytest.raises(UserError, match="there is no sparse_compute 'gather'"):
        Config(sparse_compute="gather")


def test_settings_of_before_there_was_more_than_one_way_are_read():
    assert Config.of({"sparse_compute": True}).sparse_compute == "kernels"
    assert Config.of({"sparse_compute": False}).sparse_compute is None
