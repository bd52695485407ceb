"""The errors users meet: what is taken, in which form, and the words of what is not."""

import math

import numpy as np
import pytest

from fredist import checks
from fredist.templates import TEMPLATES

MODELS = ("vgg19", "resnet50", "inception", "mobilenet")


@pytest.mark.parametrize(
    ("value", "choices", "meant"),
    [
        ("VGG-19", MODELS, "vgg19"),
        ("GoogLeNet", MODELS, "inception"),
        ("mobilenet_v1", MODELS, "mobilenet"),
        ("resnet18", MODELS, None),  # another network, not a misspelling
        ("efficientnet_b0", MODELS, None),
        ("negative-quadratic", TEMPLATES, "negative_quadratic"),
        ("unifrom", TEMPLATES, "uniform"),
        ("cifar10", ("cifar100", "digits"), None),
        ("tiny-imagenet-200", ("cifar10", "tiny-imagenet"), "tiny-imagenet"),
        ("", MODELS, None),
    ],
)
def test_a_hint_names_what_is_meant_or_nothing(value, choices, meant):
    assert checks.closest(value, choices) == (f" (did you mean {meant!r}?)" if meant else "")


def test_a_choice_is_given_back_or_the_choices_are_listed():
    assert checks.check_choice("model", "vgg19", iter(MODELS)) == "vgg19"
    with pytest.raises(ValueError, match=r"unknown model 'x'; choose from vgg19, resnet50, inc"):
        checks.check_choice("model", "x", iter(MODELS))
    for value in (None, 19, ["vgg19"]):
        with pytest.raises(TypeError, match=r"expected a string as model, got .*; choose from vgg"):
            checks.check_choice("model", value, MODELS)


def test_a_flag_is_true_or_false():
    assert [checks.check_flag("resume", flag) for flag in (True, False)] == [True, False]
    for value in (1, 0, "no", None, np.True_):
        with pytest.raises(TypeError, match="expected True or False as resume, got "):
            checks.check_flag("resume", value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(7.0, TypeError), (True, TypeError), ("7", TypeError), (None, TypeError), (0, ValueError)],
)
def test_an_integer_of_any_kind_becomes_pythons_and_others_are_refused(value, error):
    numbers = [
        checks.check_integer("epochs", good, most=10) for good in (7, np.uint8(7), np.int64(7))
    ]
    assert [(type(number), number) for number in numbers] == [(int, 7)] * 3
    with pytest.raises(error, match=f"expected an integer of at least 1 as epochs, got {value!r}"):
        checks.check_integer("epochs", value, most=10)
    for much, shown in ((11, "11"), (10**400, "more than that")):
        with pytest.raises(ValueError, match=f"expected at most 10 as epochs, got {shown}"):
            checks.check_integer("epochs", much, most=10)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        *((number, ValueError) for number in (math.nan, math.inf, -0.1)),
        *((other, TypeError) for other in (True, "0.1", None)),
        pytest.param(10**400, ValueError, id="huge"),  # whose digits would fill the screen
    ],
)
def test_a_number_of_any_kind_becomes_pythons_and_others_are_refused(value, error):
    numbers = [checks.check_number("lr", good) for good in (2, 2.0, np.float32(2), np.uint8(2))]
    assert [(type(number), number) for number in numbers] == [(float, 2.0)] * 4
    assert math.copysign(1, checks.check_number("momentum", -0.0)) == 1  # one number, one form
    with pytest.raises(error, match=r"number of at least 0 as lr, got "):
        checks.check_number("lr", value)
    with pytest.raises(ValueError, match="a finite number above 0 as lr, got 0"):
        checks.check_number("lr", 0, above=True)


def test_what_a_command_line_or_a_notebook_gives_becomes_a_list():
    values = ("a, b", ["a", "b"], ("a",), 0, 0.5, np.array([1, 2]))
    words = [["a", "b"], ["a", "b"], ["a"], [0], [0.5], [1, 2]]
    assert [checks.as_words("models", value) for value in values] == words
    for value in ("", ",", "a,", " ", [], (), {}, {"a": 1}, b"01", bytearray(b"01"), object()):
        with pytest.raises((TypeError, ValueError), match=r"expected .* models"):
            checks.as_words("models", value)


def test_lists_are_checked_one_by_one_and_kept_once():
    assert checks.check_choices("models", None, MODELS) == MODELS
    assert checks.check_choices("models", "mobilenet, vgg19,mobilenet", MODELS) == (
        "mobilenet",
        "vgg19",
    )
    with pytest.raises(ValueError, match=r"unknown model 'vgg16'; choose from vgg19"):
        checks.check_choices("models", ["vgg19", "vgg16"], MODELS)
    assert checks.check_numbers("seeds", None, int) is None
    for seeds in ([0, 1, 0], "0, 1", (np.int64(0), 1), ["0", 1], range(2)):
        assert repr(checks.check_numbers("seeds", seeds, int)) == "(0, 1)"
    for widths in ([1, 0.5], "1,0.5", [np.int8(1), np.float16(0.5)], ["1", 0.5]):
        assert repr(checks.check_numbers("widths", widths, float)) == "(1.0, 0.5)"


@pytest.mark.parametrize(
    ("what", "kind", "values"),
    [
        ("seeds", int, ([0.0], [True], "0.5", "a", [-1], [None], True)),
        ("widths", float, ([0], [-1], "nan", "a", [True], [None])),
    ],
)
def test_other_seeds_and_widths_are_refused(what, kind, values):
    for value in values:
        with pytest.raises((TypeError, ValueError), match=rf"expected .* {what}"):
            checks.check_numbers(what, value, kind)
