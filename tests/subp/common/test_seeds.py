"""Seeds derived from what they are for."""

from subp.common.seeds import derived_seed


def test_other_parts_give_another_seed_even_where_they_read_alike():
    assert len({derived_seed(*parts) for parts in (("a", "b"), ("a/b",), ("b", "a"), ("1",), (1,))}) == 5
    assert derived_seed(0, "mask", "conv", 3) == derived_seed(0, "mask", "conv", 3)
