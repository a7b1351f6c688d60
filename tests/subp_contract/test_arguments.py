"""Arguments become what they should be, or a sentence that names them."""

import math
from pathlib import Path

import numpy as np
import pytest

from subp_contract.arguments import finite_number, path_of, require_kind, whole_number
from subp_contract.errors import Error


def test_what_fits_comes_back_plain():
    assert [whole_number("n", value, 1, 4) for value in (1, np.int64(4))] == [1, 4]
    assert finite_number("minutes", 2, above=0) == 2.0
    assert path_of("file", "a/b") == path_of("file", Path("a/b")) == Path("a/b")
    require_kind("model", 3, int, "a number")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: whole_number("threads", "a", least=1), "threads must be a whole number from 1, not 'a'"),
        (lambda: whole_number("epoch", 99, 0, 4), "epoch must be a whole number from 0 to 4, not 99"),
        (lambda: whole_number("n", 1.5), "n must be a whole number, not 1.5"),
        (lambda: whole_number("n", True), "n must be a whole number, not True"),
        (lambda: finite_number("minutes", math.nan, above=0), "minutes must be a finite number above 0, not nan"),
        (lambda: finite_number("minutes", 0, above=0), "minutes must be a finite number above 0, not 0"),
        (lambda: finite_number("seconds", "1"), "seconds must be a finite number, not '1'"),
        (lambda: path_of("the file", 5), "the file must be a path, not 5"),
        (
            lambda: require_kind("model", np.zeros(2), str, "a name"),
            "model must be a name, not numpy.ndarray",
        ),
    ],
)
def test_what_does_not_fit_is_told_by_name(call, sentence):
    with pytest.raises(Error) as error:
        call()
    assert str(error.value) == sentence
