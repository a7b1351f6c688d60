"""What layers take in their forms: kept by CPU, merged, damage told in a sentence."""

import json
import resource
from dataclasses import replace

import pytest

from subp_contract.errors import UserError
from tvm_sched import targets
from tvm_sched.records.form_times import FAILED, FORMS, FormTimes, write_forms
from tvm_sched.records.json_lines import JsonLines

ONE = replace(targets.X86_AVX2, cores=1)


def test_what_is_added_is_found_again_and_later_times_replace_earlier(tmp_path):
    times = FormTimes(tmp_path, ONE, "A", writes=True)
    times.add("layer", {"direct 1x16": 2e-3, "direct 1x32": 3e-3})
    times.add("layer", {"direct 1x32": 1e-3})
    for each in (times, FormTimes(tmp_path, ONE, "A")):
        assert each.of("layer") == {"direct 1x16": 2e-3, "direct 1x32": 1e-3}
        assert each.of("another") == {}


def test_a_form_that_failed_is_known_to_have(tmp_path):
    FormTimes(tmp_path, ONE, "A", writes=True).add("layer", {"direct 1x16": 2e-3, "direct 1x32": FAILED})
    assert FormTimes(tmp_path, ONE, "A").of("layer") == {"direct 1x16": 2e-3, "direct 1x32": FAILED}


def test_they_are_of_one_number_of_threads_and_one_kind_of_instructions(tmp_path):
    FormTimes(tmp_path, ONE, "A", writes=True).add("layer", {"direct 1x16": 2e-3})
    for other in (replace(ONE, cores=2), replace(targets.X86_AVX512, cores=1)):
        assert FormTimes(tmp_path, other, "A").of("layer") == {}


def test_the_nearest_number_of_threads_is_found(tmp_path):
    of = {cores: replace(ONE, cores=cores) for cores in (1, 2, 4, 8)}
    for cores in (1, 4):
        FormTimes(tmp_path, of[cores], "A", writes=True).add("layer", {"direct 1x16": 1.0 / cores})
    for cores, nearest in ((2, 1), (4, 4), (8, 4)):
        found = FormTimes(tmp_path, of[cores], "A").on_others("layer")
        assert found == (nearest, {"direct 1x16": 1.0 / nearest})
    assert FormTimes(tmp_path, of[2], "A").on_others("another") == (0, {})


def test_this_cpus_are_preferred_and_never_mixed_with_anothers(tmp_path):
    FormTimes(tmp_path, ONE, "A", writes=True).add("layer", {"direct 1x16": 1e-3, "direct 1x32": 2e-3})
    FormTimes(tmp_path, ONE, "B", writes=True).add("layer", {"direct 1x16": 9e-3})
    assert FormTimes(tmp_path, ONE, "B").of("layer") == {"direct 1x16": 9e-3}
    assert FormTimes(tmp_path, ONE, "C").of("layer") == {"direct 1x16": 1e-3, "direct 1x32": 2e-3}
    assert FormTimes(tmp_path, ONE, "C").own("layer") == {}


def test_folders_become_one_the_least_of_each_form(tmp_path):
    for name, cpu, seconds in (("a", "A", 2e-3), ("b", "A", 1e-3), ("c", "B", 5e-3)):
        (tmp_path / name).mkdir()
        FormTimes(tmp_path / name, ONE, cpu, writes=True).add("layer", {"direct 1x16": seconds})
    write_forms([tmp_path / "b", tmp_path / "c"], tmp_path / "a")
    assert FormTimes(tmp_path / "a", ONE, "A").of("layer") == {"direct 1x16": 1e-3}
    assert FormTimes(tmp_path / "a", ONE, "B").of("layer") == {"direct 1x16": 5e-3}
    assert len((tmp_path / "a" / FORMS).read_text().splitlines()) == 2


def test_a_line_that_is_cut_off_is_told_to_readers_and_dropped_by_writers(tmp_path):
    times = FormTimes(tmp_path, ONE, "A", writes=True)
    times.add("layer", {"direct 1x16": 1e-3})
    whole = (tmp_path / FORMS).read_bytes()
    (tmp_path / FORMS).write_bytes(whole + whole[:-9])
    with pytest.raises(UserError, match="cut off"):
        FormTimes(tmp_path, ONE, "A")
    FormTimes(tmp_path, ONE, "A", writes=True).add("other", {"direct 1x16": 1e-3})
    assert [json.loads(line)["layer"] for line in (tmp_path / FORMS).read_text().splitlines()] == ["layer", "other"]


@pytest.mark.parametrize("change", [{"seconds": {"direct": 0.0}}, {"seconds": {"direct": "1"}}, {"threads": "1"}])
def test_a_damaged_line_is_told(tmp_path, change):
    line = {"layer": "l", "target": ONE.family, "threads": 1, "cpu": "A", "seconds": {"direct": 1.0}}
    (tmp_path / FORMS).write_text(json.dumps(line) + "\n")
    assert FormTimes(tmp_path, ONE, "A").of("l") == {"direct": 1.0}
    (tmp_path / FORMS).write_text(json.dumps(line | change) + "\n")
    with pytest.raises(UserError, match="damaged"):
        FormTimes(tmp_path, ONE, "A")


def test_a_line_that_finds_no_room_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "lines"
    file.touch()
    lines = JsonLines(file, lambda line: True)
    lines.append("whole")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes that any file may have
    try:
        with pytest.raises(UserError, match=r"could not write .*lines: File too large; what was there before"):
            lines.append("x" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b'"whole"\n' and lines.append(1) == 1
