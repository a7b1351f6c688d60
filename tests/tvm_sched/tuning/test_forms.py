"""Layers are measured in several forms as the network has them, and compiling takes the fastest."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from zeros import prune

import tvm_sched
from tvm_sched import pipeline, targets
from tvm_sched.frontend import torch_export
from tvm_sched.kernels import kernel_of
from tvm_sched.kernels.base import kernel_name
from tvm_sched.pipeline import Compilation
from tvm_sched.records.form_times import FORMS, FormTimes
from tvm_sched.tuning import measuring
from tvm_sched.tuning.forms import Survey, Version, forms_of, without_common

ONE = replace(targets.host(), cores=1)


def network():
    """A strided layer, which may run after space-to-depth, and two of stride 1, of which one adds a residual."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(16, 32, 3, stride=2, padding=1)
            self.first, self.second = (nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))

        def forward(self, x):
            x = torch.relu(self.stem(x))
            return torch.relu(self.second(torch.relu(self.first(x))) + x)

    return prune(Net(), 16, 0.5).eval(), torch.randn(1, 16, 32, 32)


@pytest.fixture(scope="module")
def imported():
    return torch_export.from_torch(*network())


@pytest.fixture(scope="module")
def survey(imported):
    found = Survey(lambda key: {})
    pipeline.fused(imported, Compilation(ONE, choose=found))
    return found


def test_each_distinct_layer_has_several_forms(survey):
    assert set(survey.keys) == {"stem", "first", "second"}
    assert survey.keys["first"] == survey.keys["second"] != survey.keys["stem"]
    assert all(len(plans) > 1 for plans in survey.plans.values())
    assert survey.missing(lambda key: {}) == survey.plans
    known = {key: {plan.kernel: 1.0 for plan in plans} for key, plans in survey.plans.items()}
    assert survey.missing(known.__getitem__) == {}


def test_a_form_has_the_functions_that_the_network_has(imported, survey):
    """The kernel with what is fused behind it, and before it what this form alone needs."""
    found = forms_of(imported, partial(Compilation, ONE), survey.plans)
    assert {forms.layer for forms in found.values()} == {"stem", "first"}
    for key, forms in found.items():
        assert [version.form for version in forms.versions] == [plan.kernel for plan in survey.plans[key]]
        for version, plan in zip(forms.versions, survey.plans[key], strict=True):
            assert kernel_of(version.kernel) is plan.form.kernel
            passes = [kernel_name(func) for func in version.before]
            assert ("space_to_depth" in passes) == (plan.space_to_depth is not None)


def test_what_all_forms_have_before_them_does_not_count(imported):
    mod = pipeline.fused(imported, Compilation(ONE))
    functions = [mod[binding.value.args[0]] for binding in pipeline.kernel_bindings(mod)]
    some, other = functions[0], next(func for func in functions if kernel_of(func))
    versions = [Version("a", some, (some, other, other)), Version("b", some, (other,))]
    assert [version.before for version in without_common(versions)] == [(some, other), ()]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms") / "records"
    return folder, tvm_sched.tune(*network(), threads=1, records=folder, trials=2)


def test_forms_are_recorded_and_a_second_run_measures_nothing(tuned, monkeypatch):
    folder, summary = tuned
    assert summary.failed == 0 and [form.layer for form in summary.forms] == ["stem", "first"]
    for form in summary.forms:
        assert form.first in form.ms and form.ms[form.chosen] <= form.ms[form.first]
        assert all(0 < ms < 100 for ms in form.ms.values())
    before = (folder / FORMS).read_bytes()
    assert len(before.splitlines()) == 2
    monkeypatch.setattr(measuring.Measurer, "measure", lambda *_: pytest.fail("measured again"))
    again = tvm_sched.tune(*network(), threads=1, records=folder, trials=2)
    assert (again.forms, again.built) == ([], 0)
    assert (folder / FORMS).read_bytes() == before


def test_compiling_takes_the_form_that_was_measured_to_be_fastest(tuned, tmp_path):
    folder, _ = tuned
    (tmp_path / "best").mkdir()
    lines = [json.loads(line) for line in (folder / FORMS).read_text().splitlines()]
    for line in lines:
        last = list(line["seconds"])[-1]  # the last by estimate
        FormTimes(tmp_path / "best", ONE, writes=True).add(line["layer"], line["seconds"] | {last: 1e-9})
    (tmp_path / "best" / "best.jsonl").touch()
    module, x = network()
    compiled = tvm_sched.compile(module, x, threads=1, records=tmp_path / "best")
    wanted = [list(line["seconds"])[-1] for line in lines]
    assert [row.kernel for row in compiled.explain()] == [wanted[0], wanted[1], wanted[1]]
    with torch.no_grad():
        np.testing.assert_allclose(compiled(x.numpy()), module(x).numpy(), rtol=0, atol=1e-4)
