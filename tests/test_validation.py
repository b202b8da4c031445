from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from samslib.validation import above, at_least, choose, choose_device, left_out, number, share, whole


def test_a_wrong_choice_lists_what_exists():
    assert choose("kind", "b", {"a": 1, "b": 2}) == 2 and choose("kind", "a", ("a", "b")) == "a"
    assert choose("kind", None, ("a", None)) is None
    with pytest.raises(ValueError, match=r"kind is 'c'; choose one of \['a', 'b'\]"):
        choose("kind", "c", ("b", "a"))
    with pytest.raises(ValueError, match="kind is 'c'.*None.*'a'"):
        choose("kind", "c", ("a", None))


def test_limits_are_named_with_their_value():
    above(0, 1, p=0.5)
    above(0, a=1e-9, b=3)
    at_least(0, a=0, b=2)
    with pytest.raises(ValueError, match="q is 1; it must be strictly between 0 and 1"):
        above(0, 1, p=0.5, q=1)
    with pytest.raises(ValueError, match="b is 0; it must be above 0"):
        above(0, a=1, b=0)
    with pytest.raises(ValueError, match="b is -1; it must be 0 or above"):
        at_least(0, a=1, b=-1)
    share(a=0, b=1)
    with pytest.raises(ValueError, match="b is 1.1; it must be between 0 and 1"):
        share(a=0.5, b=1.1)
    for check in (above, at_least):  # NaN is on no side of anything
        with pytest.raises(ValueError, match="a is nan"):
            check(0, a=math.nan)


def test_numbers_are_taken_from_any_scalar_and_refused_by_name():
    for given in (3, 3.0, np.int64(3), np.float32(3), torch.tensor(3), np.array(3)):
        assert whole("steps", given, 1) == 3 and type(whole("steps", given)) is int
    assert number("rate", np.float32(0.5)) == 0.5
    for wrong, message in [(2.5, "steps is 2.5; it must be a whole number"), (0, "steps is 0; it must be 1 or above")]:
        with pytest.raises(ValueError, match=message):
            whole("steps", wrong, 1)
    for wrong in (None, "3", True, np.nan, [3], np.inf):
        with pytest.raises(ValueError, match="rate is .*; it must be a finite number"):
            number("rate", wrong)


def test_a_device_is_there_or_the_error_says_what_would_do():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("abacus", f"cuda:{torch.cuda.device_count()}", 3.5):
        with pytest.raises(ValueError, match=f"Device {name!r} cannot be used here; take 'cpu' or 'auto'"):
            choose_device(name)


def test_what_would_change_nothing_is_to_be_left_out():
    left_out("b is given", a=None)
    with pytest.raises(ValueError, match="a is 0, but b is given; leave a out"):
        left_out("b is given", c=None, a=0)
