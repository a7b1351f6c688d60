"""What loops of one's own do to a masked model: resume by its state alone, replace layers, checkpoint activations."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from subp import Sparsifier
from subp.pruning import masking
from subp.pruning.methods import METHODS
from subp_contract.errors import UserError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(16, 4)
    )


def epoch_of(model, optimizer, seed):
    draws = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 3, 3, 3, generator=draws), torch.randint(4, (8,), generator=draws)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stopped", [2, 4])  # while the masks climb, where they do, and when they are settled
def test_a_loop_that_resumes_by_the_models_state_alone_has_the_masks_of_the_whole_run(method, stopped):
    def start():
        model = network()
        options = {"input_shape": (3, 3, 3)} if METHODS[method].regroups else {}
        sparsifier = Sparsifier(model, n=4, sparsity=0.75, epochs=6, method=method, **options)
        return model, sparsifier, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)

    model, sparsifier, optimizer = start()
    for epoch in range(stopped):
        sparsifier.step(epoch)
        epoch_of(model, optimizer, epoch)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    resumed, again, other = start()
    resumed.load_state_dict(state[0])
    other.load_state_dict(state[1])
    for epoch in range(stopped, 6):
        sparsifier.step(epoch), again.step(epoch)
        assert all(torch.equal(mask, again.masks[name]) for name, mask in sparsifier.masks.items())
        epoch_of(model, optimizer, epoch), epoch_of(resumed, other, epoch)


@pytest.mark.parametrize("method", ["subp", "sr-ste"])
def test_checkpointed_activations_are_of_the_masks_of_their_step(method):
    def losses(reentrant):
        model = network()
        sparsifier = Sparsifier(model, n=4, sparsity=0.75, epochs=1, method=method)
        sparsifier.step(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        x = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
        found = []
        for _ in range(4):
            hidden = model[:4](x) if reentrant is None else checkpoint(model[:4], x, use_reentrant=reentrant)
            loss = nn.functional.cross_entropy(model[4:](hidden), torch.arange(8) % 4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    assert losses(None) == losses(False) == losses(True)


def test_a_masked_layer_that_was_replaced_is_named():
    model = network()
    sparsifier = Sparsifier(model, n=4, epochs=2)
    sparsifier.step(0)
    masked, model[2] = model[2], nn.Conv2d(8, 16, 1)
    for ask in (
        lambda: sparsifier.step(1),
        lambda: sparsifier.density,
        sparsifier.summary,
        sparsifier.fold,
        lambda: sparsifier.decay_in(torch.optim.SGD(model.parameters())),
    ):
        with pytest.raises(UserError, match=r"^2 is masked, but no longer in the model"):
            ask()
    model[2] = nn.Sequential(masked)  # wrapped, it still is
    sparsifier.step(1)
    model[5] = nn.Linear(16, 7)  # a new head was never masked
    assert sparsifier.density == 0.25 and sparsifier.fold() is model


def test_a_folded_sparsifier_still_tells_what_was_kept():
    sparsifier = Sparsifier(network(), n=4, epochs=1)
    sparsifier.step(0)
    rows = sparsifier.summary()
    assert sparsifier.fold() is sparsifier.fold()
    assert sparsifier.density == 0.25 and sparsifier.summary() == rows


@pytest.mark.parametrize(
    "model, name",
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(4)), "3"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.LazyConv2d(8, 3), nn.Flatten(), nn.Linear(8, 4)), "1"),
    ],
)
def test_lazy_layers_must_have_run(model, name):
    with pytest.raises(UserError, match=f"^{name} has no weight yet: run a batch through the model first$"):
        Sparsifier(model(), n=4, epochs=1)
    run = model()
    run(torch.zeros(1, 3, 5, 5))
    last = Sparsifier(run, n=4, epochs=1).summary()[-1]
    assert (last.name, last.reason) == ("3", "classifier (last linear layer)")


def test_a_model_without_numbers_has_no_masks_to_choose():
    with torch.device("meta"):
        sparsifier = Sparsifier(network(), n=4, epochs=1)
    with pytest.raises(UserError, match="2 is on the meta device, which has no numbers: load the weights first"):
        sparsifier.step(0)


def test_gradients_of_single_images_by_vmap_add_up_to_the_batchs():
    layer = nn.Linear(8, 8)
    mask = masking.attach(layer, (2, 8), True, 0.25)
    mask.mask[0, :4] = False
    x = torch.randn(5, 8)
    parameters = dict(layer.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(layer, parameters, image[None]).square().sum()

    single = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    weight = layer.parametrizations.weight.original
    pull = 0.25 * ~mask.mask.repeat_interleave(4, 0) * weight.detach()
    name = "parametrizations.weight.original"
    torch.testing.assert_close((single[name] - pull).sum(0), weight.grad - pull)
