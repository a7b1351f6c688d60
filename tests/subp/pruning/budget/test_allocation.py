"""Sparsity by layer: the formulas on examples worked out by hand, budgets, uniformity, resuming."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from subp import Sparsifier, models
from subp.cli.train import command as train
from subp.data import loaders
from subp.pruning import block_masks, summary
from subp.pruning.budget.allocation import ALLOCATIONS, erk, lamp, ranked_together
from subp.pruning.budget.budgets import Budget, Share
from subp.pruning.channels import rearrange
from subp.pruning.masking import trained_weight
from subp.pruning.methods import METHODS
from subp.training import checkpoint, trainer
from subp.training.config import Config
from subp.training.run import TrainingRun
from subp_contract.errors import UserError

SHAPES = [(4, 4, 1, 1), (8, 8, 3, 3), (16, 8)]  # (O + I + kh + kw) / (O I kh kw): 10 / 16, 22 / 576, 24 / 128
UNIFORM = ("subp", "random", "one-by-n-uniform", "hrbp")


@pytest.mark.parametrize(
    "kept, factor, densities",
    [
        (72, 72 / 56, (72 / 56 * 10 / 16, 72 / 56 * 22 / 576, 72 / 56 * 24 / 128)),
        (
            144,
            128 / 46,
            (1, 128 / 46 * 22 / 576, 128 / 46 * 24 / 128),
        ),  # the first layer is whole: 128 weights for the others
        (360, 216 / 22, (1, 216 / 576, 1)),  # and so is the last
    ],
)
def test_erk_gives_each_layer_the_density_of_its_shape_and_whole_layers_leave_the_rest_to_others(
    kept, factor, densities
):
    assert erk(SHAPES)(1 - factor * 22 / 576) == pytest.approx([1 - density for density in densities], abs=1e-12)
    budget = Budget(kept, [Share(size, 10**9) for size in (16, 576, 128)], 0, "weights")
    assert budget.sparsities(erk(SHAPES)) == pytest.approx([1 - density for density in densities], abs=1e-8)


def test_lamp_is_the_part_of_what_is_left():
    assert lamp(torch.tensor([[9.0, 1.0], [4.0, 2.0]])).tolist() == pytest.approx(
        [1 / 16, 2 / 15, 4 / 13, 1], abs=1e-15
    )
    assert lamp(torch.zeros(2)).tolist() == [0, 0]


def test_one_threshold_holds_for_all_layers():
    together = ranked_together([torch.tensor([0.1, 0.2, 0.3, 1.0]), torch.tensor([0.15, 0.5, 1.0])])
    assert [together(level) for level in (0, 3 / 7, 4.5 / 7, 1)] == [[0, 0], [2 / 4, 1 / 3], [3 / 4, 1 / 3], [1, 1]]


def test_sums_over_units_are_those_of_the_weights_they_get():
    values = torch.arange(4 * 3 * 2 * 2).double().reshape(4, 3, 2, 2)
    for shape in ((2, 3), (4, 3), (4, 1), (4, 3, 2, 2)):
        units = torch.arange(torch.Size(shape).numel()).reshape(shape)
        spread = block_masks.expand_mask(units, values.shape).expand(values.shape)
        expected = [float(values[spread == unit].sum()) for unit in range(units.numel())]
        assert block_masks.unit_sums(values, shape).flatten().tolist() == expected


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_global_prunes_the_layer_that_has_little_to_lose_whatever_its_scale(scale):
    """Of a's 16 blocks 12 are tiny; b's are alike, and score 1/16, 1/15, ...: of the 16 that go, a loses 12, b 4."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].weight.fill_(1e-3)
        model[1].weight[:, [2, 5]] = 1.0
        model[2].weight.fill_(scale)
    sparsifier = Sparsifier(model, n=4, sparsity=0.5, allocation="global", criterion="l1", epochs=1)
    sparsifier.step(0)
    assert sparsifier.sparsities == {"1": 12 / 16, "2": 4 / 16}
    assert sparsifier.masks["1"].int().tolist() == [[0, 0, 1, 0, 0, 1, 0, 0]] * 2
    assert sparsifier.masks["2"].sum(1).tolist() == [6, 6]


@pytest.fixture(scope="module")
def networks():
    """Name -> (network, input shape, its layers' rows, dense)."""
    torch.manual_seed(0)
    made = {
        "resnet18": (models.create("resnet18", 1000), (3, 64, 64)),
        "resnet20": (models.create("resnet20", 10), (3, 32, 32)),
    }
    return {name: (*of_name, summary.inspect(*of_name)) for name, of_name in made.items()}


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("asked", ["sparsity", "target_weights", "target_macs"])
def test_budgets_are_met_within_a_step(networks, name, allocation, asked):
    """A step is a channel of every layer; with erk of layers of one shape, with "global" of one layer. Equal layers
    each round a sparsity that is given down.
    """
    dense, input_shape, rows = networks[name]
    fraction = 0.7 if asked == "sparsity" else 0.3
    model = copy.deepcopy(dense)
    options = {asked: fraction, "allocation": allocation, "input_shape": input_shape}
    sparsifier = Sparsifier(model, criterion="l1", epochs=1, **options)
    sparsifier.step(0)
    shapes = {row.name: row.shape for row in rows if row.name in sparsifier.places or asked != "sparsity"}
    costs = {row.name: row.macs if asked == "target_macs" else torch.Size(row.shape).numel() for row in rows}
    nonzero = {
        name: int(model.get_submodule(name).weight.count_nonzero()) / torch.Size(shape).numel()
        for name, shape in shapes.items()
    }
    kept, limit = sum(costs[name] * nonzero[name] for name in shapes), 0.3 * sum(costs[name] for name in shapes)
    steps = {name: costs[name] / shapes[name][1] for name in sparsifier.places}
    of_shapes = [sum(steps[name] for name in steps if shapes[name] == shape) for shape in set(shapes.values())]
    step = {"equal": sum(steps.values()), "erk": max(of_shapes), "global": max(steps.values())}[allocation]
    rounded_down = asked == "sparsity" and allocation == "equal"
    assert 0 <= (kept - limit if rounded_down else limit - kept) + 1e-12 * limit < step
    assert len(set(sparsifier.sparsities.values())) > (1 if allocation != "equal" else 0)


class Branches(nn.Module):
    """Layers of several shapes, two of which make the same channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.Conv2d(32, 16, 3, padding=1),
        )
        self.norm, self.down, self.head, self.fc = (
            nn.BatchNorm2d(32),
            nn.Conv2d(16, 16, 1),
            nn.Linear(16, 24),
            nn.Linear(24, 5),
        )

    def forward(self, x):
        x = self.stem(x)
        return self.fc(self.head((self.b(self.norm(self.a(x)).relu()) + self.down(x)).relu().mean((2, 3))).relu())


OPTIONS = {"n": 8, "sparsity": 0.6, "input_shape": (3, 8, 8)}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("method", UNIFORM)
def test_layers_stay_uniform_at_every_epoch(method, allocation):
    sparsifier = Sparsifier(Branches(), method=method, allocation=allocation, epochs=4, start=0, end=3, **OPTIONS)
    for epoch in range(4):
        sparsifier.step(epoch)
        assert all(len(mask.sum(1).unique()) == 1 for mask in sparsifier.masks.values())


@pytest.mark.parametrize("allocation", ["erk", "global"])
@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].follow])
def test_every_method_ends_at_each_layers_own_sparsity(method, allocation):
    sparsifier = Sparsifier(Branches(), method=method, allocation=allocation, epochs=2, **OPTIONS)
    sparsifier.step(1)
    densities = {row.name: row.density for row in sparsifier.summary() if row.reason is None}
    assert densities == pytest.approx(
        {name: 1 - sparsity for name, sparsity in sparsifier.sparsities.items()}, abs=1e-12
    )
    assert len(set(densities.values())) > 1 and sparsifier.density <= 0.4 + 1e-12


def test_the_schedule_climbs_to_each_layers_own_sparsity():
    sparsifier = Sparsifier(Branches(), allocation="erk", schedule="linear", epochs=5, start=0, end=4, **OPTIONS)
    for epoch in range(5):
        sparsifier.step(epoch)
        for name, mask in sparsifier.masks.items():
            inputs, p = mask.shape[1], sparsifier.sparsities[name]
            kept = inputs - round(p * inputs) + int((p - p * epoch / 4) * inputs + 1e-6)
            assert mask.sum(1).tolist() == [kept] * len(mask)


def test_global_looks_at_the_weights_as_they_are_rearranged():
    model, other = Branches().eval(), Branches().eval()
    with torch.no_grad():
        for each in (model, other):
            each.a.weight *= torch.logspace(-1, 1, 32)[
                torch.randperm(32, generator=torch.Generator().manual_seed(0))
            ].reshape(-1, 1, 1, 1)
    before = Sparsifier(copy.deepcopy(other), allocation="global", epochs=1, **OPTIONS).sparsities
    found = Sparsifier(model, allocation="global", rearrange=True, epochs=1, exclude=["fc"], **OPTIONS).sparsities
    weights = [f"{name}.weight" for name in found]
    rearrange.rearrange(
        other, torch.zeros(1, 3, 8, 8), lambda channels, net: rearrange.by_l1_norm(channels, net, weights)
    )
    assert found == Sparsifier(other, allocation="global", epochs=1, **OPTIONS).sparsities != before


@pytest.mark.parametrize("asked", [{"sparsity": 0.6}, {"target_macs": 0.5}])
def test_sparsities_found_from_weights_are_those_of_the_first_run_after_loading(asked):
    options = OPTIONS | {"sparsity": None, "allocation": "global", "epochs": 5} | asked
    trained = Branches()
    with torch.no_grad():
        trained.b.weight[:, :16] *= 0.01
    sparsifier, resumed = Sparsifier(Branches(), **options), Sparsifier(trained, **options)
    sparsifier.step(2)
    assert resumed.sparsities != sparsifier.sparsities
    state = sparsifier.state_dict()
    resumed.load_state_dict(state | {name: json.loads(json.dumps(state[name])) for name in ("settings", "sparsities")})
    resumed.model.load_state_dict(sparsifier.model.state_dict())
    for each in (sparsifier, resumed):
        each.step(4)
    assert resumed.sparsities == sparsifier.sparsities
    assert all(torch.equal(mask, sparsifier.masks[name]) for name, mask in resumed.masks.items())


@pytest.mark.parametrize(
    "allocation, change, message",
    [
        ("erk", {"a": 0.5}, "the saved sparsity of a is 0.5, this sparsifier's 0.6875"),
        ("global", {"a": 1.0}, "the saved sparsity of a is 1.0"),
        ("global", {"c": 0.5}, "the sparsities saved are of other layers: c in one only"),
    ],
)
def test_sparsities_of_another_run_are_refused(allocation, change, message):
    sparsifier = Sparsifier(Branches(), allocation=allocation, epochs=1, **OPTIONS)
    state = sparsifier.state_dict()
    state["sparsities"] |= change
    with pytest.raises(UserError, match=message):
        sparsifier.load_state_dict(state)


class Interrupted(Exception):
    pass


def test_a_resumed_run_has_the_sparsities_of_the_weights_it_began_with(tmp_path, monkeypatch):
    draws = torch.Generator().manual_seed(0)
    images = loaders.from_tensors(
        *((torch.rand(n, 1, 16, 16, generator=draws), torch.arange(n) % 4) for n in (32, 8)), list("abcd")
    )
    torch.manual_seed(7)
    torch.save(models.create("resnet20", 4, in_channels=1).state_dict(), tmp_path / "start.pth")
    config = Config(
        model="resnet20", n=8, allocation="global", target_macs=0.4, epochs=3, start=0, end=2, batch_size=16, lr=0.1
    )
    whole = trainer.train(images, config, weights=tmp_path / "start.pth", output=tmp_path / "whole")

    def interrupted(run, epoch, progress, go_on=TrainingRun.epoch):
        if epoch == 1:
            raise Interrupted
        go_on(run, epoch, progress)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(TrainingRun, "epoch", interrupted)
        trainer.train(images, config, weights=tmp_path / "start.pth", output=tmp_path / "parts")
    parts = trainer.train(images, config, output=tmp_path / "parts", resume=True)
    saved = [checkpoint.load(tmp_path / run / trainer.CHECKPOINT) for run in ("whole", "parts")]
    assert saved[0].metadata["sparsities"] == saved[1].metadata["sparsities"]
    assert all(torch.equal(tensor, saved[1].model[name]) for name, tensor in saved[0].model.items())
    assert all(torch.equal(tensor, parts.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
    with pytest.raises(UserError, match=r"the run to resume has --allocation global .not --allocation erk."):
        trainer.train(images, replace(config, allocation="erk"), output=tmp_path / "parts", resume=True)


def test_the_command_shares_out_a_budget(tmp_path):
    run = ["digits", "--model", "resnet20", "--size", "8", "--batch-size", "256", "--epochs", "1", "--threads", "1"]
    options = ["--allocation", "erk", "--target-weights", "0.3", "-o", str(tmp_path / "run")]
    assert CliRunner().invoke(train, [*run, *options], catch_exceptions=False).exit_code == 0
    model, metadata = checkpoint.load_model(tmp_path / "run" / trainer.MODEL)
    rows = summary.inspect(model)
    for row in rows:
        assert row.density == pytest.approx(1 - metadata["sparsities"].get(row.name, 0.0)) and row.uniform is not False
    sizes = [torch.Size(row.shape).numel() for row in rows]
    assert 0.29 < sum(size * row.density for size, row in zip(sizes, rows, strict=True)) / sum(sizes) <= 0.3
    refused = CliRunner().invoke(train, [*run, "--allocation", "lamp", "-o", str(tmp_path / "none")])
    assert refused.exit_code == 2 and "'lamp' is not one of 'equal', 'erk', 'global'" in refused.output


@pytest.mark.parametrize(
    "options, message",
    [
        ({"allocation": "lamp"}, "there is no allocation 'lamp': choose from equal, erk, global"),
        (
            {"allocation": "erk", "method": "sr-ste", "sparsity": 0.5},
            "sr-ste keeps N of M .* no allocation but equal, not erk",
        ),
        ({"allocation": "global", "sparsity": 0.99}, "million weights of the pruned layers cannot be reached"),
        ({"allocation": "erk", "target_macs": 0.3, "sparsity": 0.5}, "exclude each other"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_touched(options, message):
    model = Branches()
    with pytest.raises(UserError, match=message):
        Sparsifier(model, n=8, epochs=1, input_shape=(3, 8, 8), **options)
    assert type(model.a) is nn.Conv2d


def test_a_layer_of_zeros_is_pruned_first_and_keeps_a_block_a_group():
    model = Branches()
    with torch.no_grad():
        model.b.weight.zero_()
    sparsifier = Sparsifier(model, allocation="global", epochs=1, **OPTIONS)
    sparsifier.step(0)
    assert sparsifier.sparsities["b"] == 31 / 32 and sparsifier.masks["b"].sum(1).tolist() == [1, 1]
    assert trained_weight(model.b).count_nonzero() == 0
