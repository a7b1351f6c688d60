"""TVM looks at the kind of every argument of every step of a schedule, and works out anew each time what the words of
the step's signature mean: a third of what scheduling takes. Here that is remembered.
"""

from functools import cache

from tvm.s_tir.schedule import _type_checker


def remember() -> None:
    """From here on, in this process; what is checked and told stays the same."""
    for name in ("_dispatcher", "_type2str"):  # a signature's words -> how to check them, how to tell them
        function = getattr(_type_checker, name)
        if not hasattr(function, "cache_info"):
            setattr(_type_checker, name, cache(function))
