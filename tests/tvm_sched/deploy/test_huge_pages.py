"""Which memory gets huge pages."""

import numpy as np

from tvm_sched.deploy import huge_pages
from tvm_sched.deploy.huge_pages import HUGE, full_regions

FIELDS = (
    "KernelPageSize:        4 kB\nMMUPageSize:           4 kB\nRss:              {rss} kB\nPss:                {rss} "
    "kB\n"
)


def region(start: int, end: int, rss: int, kind: str = "rw-p 00000000 00:00 0 ") -> str:
    return f"{start:x}-{end:x} {kind}\nSize:               {(end - start) >> 10} kB\n" + FIELDS.format(rss=rss)


def test_whole_huge_pages_of_memory_in_use():
    smaps = region(3 * HUGE - 4096, 6 * HUGE + 4096, (3 * HUGE + 8192) >> 10) + region(
        9 * HUGE, 10 * HUGE, HUGE >> 10, "rw-p 00000000 00:00 0  [heap]"
    )
    assert full_regions(smaps) == [(3 * HUGE, 3 * HUGE), (9 * HUGE, HUGE)]


def test_files_code_small_and_mostly_unused_memory_are_left_alone():
    file = region(2 * HUGE, 4 * HUGE, 4096, "rw-p 00000000 08:01 77 /lib/libc.so")
    code = region(5 * HUGE, 7 * HUGE, 4096, "r-xp 00000000 00:00 0 ")
    small = region(8 * HUGE + 4096, 9 * HUGE + 4096, 2048)
    stack = region(10 * HUGE, 14 * HUGE, 100)
    assert full_regions(file + code + small + stack) == []


def test_memory_keeps_its_content():
    array = np.random.default_rng(0).standard_normal(8 * HUGE // 8)
    before = array.copy()
    assert huge_pages.collapse() >= 0
    np.testing.assert_array_equal(array, before)
