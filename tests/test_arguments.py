"""What templates and networks refuse, and the words in which they say what to do."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from functools import partial

import pytest
import timm

from fredist.models import compare, create_model, default_options, redistribute
from fredist.templates import CONVENTIONS, TEMPLATES, apply_template, solve

NAMES = ("vgg19", "resnet50", "inception", "mobilenet")
PARABOLAS = ("quadratic", "negative_quadratic")
RESNET = (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("filters", "error", "message"),
    [
        ([], ValueError, "at least one layer, got an empty list"),
        ([64, 0], ValueError, "integer of at least 1 as filters, got 0"),
        ([64, -3], ValueError, "integer of at least 1 as filters, got -3"),
        ([64, 2.5], TypeError, "integer of at least 1 as filters, got 2.5"),
        ([64, 2.0], TypeError, "integer of at least 1 as filters, got 2.0"),
        ([64, True], TypeError, "integer of at least 1 as filters, got True"),
        ([64, None], TypeError, "integer of at least 1 as filters, got None"),
        ([64, "2"], TypeError, "integer of at least 1 as filters, got '2'"),
        ([[64], [2]], TypeError, r"integer of at least 1 as filters, got \[64\]"),
        ("64", TypeError, "a list of filters per layer, got '64'"),
        (64, TypeError, "a list of filters per layer, got 64"),
        (None, TypeError, "a list of filters per layer, got None"),
        ({64, 2}, TypeError, r"a list of filters per layer, got \{.*\}"),
        ({64: 1}, TypeError, r"a list of filters per layer, got \{64: 1\}"),
        ({64: 1}.keys(), TypeError, "a list of filters per layer, got dict_keys"),
    ],
)
@pytest.mark.parametrize("template", TEMPLATES)
def test_other_filters_are_refused(filters, error, message, template):
    with pytest.raises(error, match=message):
        apply_template(filters, template)


@pytest.mark.parametrize("filters", [[7], [7, 8]])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_parabola_needs_three_layers(filters, convention):
    for template in PARABOLAS:
        message = f"at least 3 layers for the {template} template, got {len(filters)}: .* use base,"
        with pytest.raises(ValueError, match=message):
            apply_template(filters, template, convention=convention)
    assert sum(apply_template(filters, "uniform")) >= sum(filters)
    assert apply_template(filters, "reverse") == tuple(filters[::-1])


@pytest.mark.parametrize(
    ("template", "hint"),
    [
        ("Reverse", "'reverse'"),
        ("reversed", "'reverse'"),
        ("reverse-base", "'reverse'"),
        ("negative-quadratic", "'negative_quadratic'"),
        ("Quadratic", "'quadratic'"),
        ("unifrom", "'uniform'"),
        ("Negative-Quadratic", "'negative_quadratic'"),
        ("negative", "'negative_quadratic'"),
        ("quad", "'quadratic'"),
    ],
)
def test_unknown_templates_are_met_with_the_closest_name(template, hint):
    message = (
        rf"unknown template '{template}' \(did you mean {hint}\?\); choose from base, reverse, "
    )
    message += "uniform, quadratic, negative_quadratic$"
    with pytest.raises(ValueError, match=message):
        apply_template(RESNET, template)
    with pytest.raises(ValueError, match=message):
        solve(RESNET, template)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"template": "xyz"}, ValueError, "unknown template 'xyz'; choose from base, "),
        ({"template": None}, TypeError, "a string as template, got None; choose from base, "),
        ({"convention": "paper"}, ValueError, "unknown convention 'paper'.*equations, published$"),
        ({"convention": 1}, TypeError, "a string as convention, got 1; choose from equations"),
        *(
            ({"width": width}, ValueError, f"a finite width above 0, got {re.escape(repr(width))}")
            for width in (0, -1, -0.5, math.inf, -math.inf, math.nan, Fraction(-1, 2))
        ),
        *(
            ({"width": width}, TypeError, f"a number as width, got {re.escape(repr(width))}")
            for width in (True, "0.5", None, 1j, [1.0], Decimal("0.5"))
        ),
        *(
            ({"width": width}, ValueError, "a finite width above 0, got one beyond the largest fl")
            for width in (10**400, Fraction(10**400, 3), 10**5000)
        ),
        *(
            ({"keep_total": flag}, TypeError, f"True or False as keep_total, got {flag!r}")
            for flag in (1, 0, "no", None)
        ),
        (
            {"keep_total": True, "round_to": 8},
            ValueError,
            "keep_total or round_to, got both: .* of 8",
        ),
        ({"keep_total": True, "round_to": 1}, ValueError, "got both"),
        ({"round_to": 0}, ValueError, "integer of at least 1 as round_to, got 0"),
        ({"round_to": -8}, ValueError, "integer of at least 1 as round_to, got -8"),
        ({"round_to": 8.0}, TypeError, "integer of at least 1 as round_to, got 8.0"),
        ({"round_to": True}, TypeError, "integer of at least 1 as round_to, got True"),
        (
            {"convention": "published", "keep_total": True},
            ValueError,
            "total of 960 filters, but the published uniform of .* has 800; use convention='equat",
        ),
    ],
)
def test_other_arguments_of_a_template_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        apply_template(RESNET, **{"template": "uniform", **arguments})


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_layers_have_no_solution(template):
    with pytest.raises(ValueError, match="at least one layer, got an empty list of filters"):
        solve([], template)


@pytest.mark.parametrize("name", ["inception", "mobilenet"])
@pytest.mark.parametrize("flag", [1, 0, "no", None])
def test_scale_fixed_is_true_or_false(name, flag):
    with pytest.raises(TypeError, match=f"True or False as scale_fixed, got {flag!r}"):
        create_model(name, scale_fixed=flag)


def test_a_reading_goes_with_a_template_not_with_filters():
    with pytest.raises(ValueError, match="got filters and reading; redistribute"):
        create_model("inception", filters=[8] * 9, reading="proportional")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg", "'vgg' .did you mean 'vgg19'.*choose from vgg19, resnet50, inception, mobilenet$"),
        ("ResNet-50", "unknown model 'ResNet-50' .did you mean 'resnet50'"),
        ("zzz", "unknown model 'zzz'; choose from vgg19, resnet50, inception, mobilenet$"),
    ],
)
@pytest.mark.parametrize("function", [create_model, compare, redistribute, default_options])
def test_unknown_networks_are_refused(function, name, message):
    with pytest.raises(ValueError, match=message):
        function(name)
    with pytest.raises(TypeError, match="expected a string as model, got 19; choose from vgg19"):
        function(19)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": True}, TypeError, "integer of at least 0 as num_classes, got True"),
        ({"num_classes": 10.0}, TypeError, "integer of at least 0 as num_classes, got 10.0"),
        ({"num_classes": "10"}, TypeError, "integer of at least 0 as num_classes, got '10'"),
        ({"num_classes": -1}, ValueError, "integer of at least 0 as num_classes, got -1"),
        ({"in_chans": 0}, ValueError, "integer of at least 1 as in_chans, got 0"),
        ({"in_chans": 3.0}, TypeError, "integer of at least 1 as in_chans, got 3.0"),
        ({"template": "rev"}, ValueError, "unknown template 'rev' .did you mean 'reverse'"),
        ({"convention": "paper"}, ValueError, "unknown convention 'paper'"),
        ({"width": 0}, ValueError, "finite width above 0, got 0"),
        ({"width": "1"}, TypeError, "number as width, got '1'"),
        ({"filters": 64}, TypeError, "a list of filters per layer, got 64"),
        ({"filters": []}, ValueError, "got an empty list of filters"),
        ({"filters": [8, 8]}, ValueError, r"expected \d+ filters, one per layer, got 2"),
        ({"filters": [8] * 3 + [0]}, ValueError, "at least 1 as filters, got 0"),
        ({"filters": [8] * 3 + [8.0]}, TypeError, "at least 1 as filters, got 8.0"),
        ({"filters": [8] * 4, "template": "uniform"}, ValueError, "filters or a template and wid"),
        ({"filters": [8] * 4, "width": 0.5}, ValueError, "=apply_template.filters, template, wid"),
        (
            {"filters": [8] * 4, "keep_total": True},
            ValueError,
            "got filters and keep_total; redist",
        ),
        ({"filters": [8] * 4, "round_to": 8}, ValueError, "got filters and round_to; redistribute"),
        (
            {"filters": [8] * 4, "convention": "published", "width": 2},
            ValueError,
            "got filters and width, convention; redistribute",
        ),
        ({"filters": {8, 9}}, TypeError, r"a list of filters per layer, got \{"),
        ({"keep_total": 1}, TypeError, "True or False as keep_total, got 1"),
        ({"width": 10**400}, ValueError, "a finite width above 0, got one beyond the largest"),
        ({"width": 1e300}, ValueError, "expected at most 100,000,000 as filters, got more"),
        ({"round_to": 10**400}, ValueError, "expected at most 100,000,000 as filters, got more"),
        ({"num_classes": 10**400}, ValueError, "at most 100,000,000 as num_classes, got more"),
        ({"in_chans": 10**9}, ValueError, "expected at most 100,000,000 as in_chans, got more"),
        ({"keep_total": True, "round_to": 8}, ValueError, "got both"),
        (
            {"keep_totl": True},
            TypeError,
            r"no option 'keep_totl' \(did you mean 'keep_total'\?\); it has keep_total, round_to",
        ),
        ({"widht": 0.5}, TypeError, r"has no option 'widht' \(did you mean 'width'\?\)"),
        ({"classes": 9}, TypeError, r"has no option 'classes' \(did you mean 'num_classes'\?\)"),
        ({"drop_rate": 0.5}, TypeError, "has no option 'drop_rate'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("through_timm", [False, True])
def test_other_arguments_of_a_network_are_refused(name, arguments, error, message, through_timm):
    create = partial(timm.create_model, f"fredist_{name}")
    with pytest.raises(error, match=message):
        (create if through_timm else partial(create_model, name))(**arguments)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "head", "pool") for name in NAMES if name != "vgg19"),
        *((name, "reading", "every_conv") for name in NAMES if name != "inception"),
        *((name, "scale_fixed", False) for name in ("vgg19", "resnet50")),
    ],
)
def test_options_of_another_network_are_refused(name, option, value):
    with pytest.raises(TypeError, match=f"^{name} has no option '{option}'.*; it has keep_total, "):
        create_model(name, **{option: value})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg19", {"head": "fc"}, "unknown head 'fc'; choose from pool, flatten7x7"),
        ("vgg19", {"head": "flatten"}, "did you mean 'flatten7x7'"),
        ("inception", {"reading": "text"}, "unknown reading 'text'; choose from every_conv, prop"),
        ("inception", {"filters": [[8] * 5] + [8] * 8}, "expected 6 filters, .* got 5"),
        ("inception", {"filters": [[8] * 5 + [0]] + [8] * 8}, "at least 1 as filters, got 0"),
    ],
)
def test_other_options_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)
