"""The four networks: their exact sizes, their shapes, and that timm knows them."""

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import GoogLeNet
from torchvision.models.googlenet import Inception

from fredist.measure import count_macs, count_params
from fredist.models import FAMILIES, compare, create_model, default_options, redistribute
from fredist.models.families import INCEPTION_MEANS, INCEPTION_OUTPUTS
from fredist.templates import CONVENTIONS, TEMPLATES, apply_template, round_filters, solve

NAMES = ("vgg19", "resnet50", "inception", "mobilenet")
WIDTHS = (1.6, 1.3, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05)
PROPORTIONAL = {"reading": "proportional"}
READINGS = [*((name, {}) for name in NAMES), ("inception", PROPORTIONAL)]
TINY = {"num_classes": 200, "head": "flatten7x7"}
VGG_EQUATIONS = (20_040_522, 20_048_138, 16_004_610, 19_424_615, 19_989_962)
RESNET_EQUATIONS = (23_520_842, 23_131_914, 18_559_930, 19_017_002, 33_033_290)
INCEPTION = (6_166_250, 6_921_596, 6_308_194, 7_055_778, 7_064_062)
IN_PROPORTION = (6_166_250, 7_513_403, 6_211_284, 7_514_137, 6_995_340)
MOBILENET = (3_217_226, 2_228_202, 2_229_426, 3_150_281, 2_434_482)
TINY_EQUATIONS = (25_053_192, 20_674_888, 19_372_560, 27_364_495, 20_616_712)
TINY_MOBILENET = (3_411_976, 2_422_952, 2_424_176, 3_345_031, 2_629_232)


def replaced(counts, template, count):
    """Return five counts with the one of a template replaced."""
    return tuple(count if t == template else n for t, n in zip(TEMPLATES, counts, strict=True))


# Parameters by template, in the order of TEMPLATES, under "equations" and as published.
COUNTS = [
    ("vgg19", {}, VGG_EQUATIONS, replaced(VGG_EQUATIONS, "quadratic", 15_785_079)),
    ("resnet50", {}, RESNET_EQUATIONS, replaced(RESNET_EQUATIONS, "uniform", 12_898_610)),
    ("inception", {}, INCEPTION, INCEPTION),
    ("inception", PROPORTIONAL, IN_PROPORTION, IN_PROPORTION),
    ("mobilenet", {}, MOBILENET, MOBILENET),
    ("vgg19", TINY, TINY_EQUATIONS, replaced(TINY_EQUATIONS, "quadratic", 20_797_749)),
    ("mobilenet", {"num_classes": 200}, TINY_MOBILENET, TINY_MOBILENET),
]


def build(name, *args, **kwargs):
    """Return the network without storage."""
    with torch.device("meta"):
        return create_model(name, *args, **kwargs)


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def images(size=32, channels=3):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def conv(inputs, outputs, kernel, bias=True):
    """Return the parameters of a conv and its batch norm."""
    return inputs * outputs * kernel**2 + (3 if bias else 2) * outputs


def count_vgg(filters, classes, channels=3, head="pool"):
    convs = sum(conv(i, o, 3) for i, o in pairwise((channels, *filters)))
    return convs + ((49 if head == "flatten7x7" else 1) * filters[-1] + 1) * classes


def count_resnet(filters, classes, channels=3):
    inputs = filters[0]
    total = conv(channels, inputs, 3, bias=False)
    for f, blocks in zip(filters, (3, 4, 6, 3), strict=True):
        total += conv(inputs, 4 * f, 1, bias=False)  # the projection shortcut
        for _ in range(blocks):
            total += conv(inputs, f, 1, bias=False) + conv(f, f, 3, bias=False)
            total += conv(f, 4 * f, 1, bias=False)
            inputs = 4 * f
    return total + (inputs + 1) * classes


def count_inception(filters, classes, channels=3, pre=192, **_):
    total, inputs = conv(channels, pre, 3), pre
    for module in filters:
        sizes = [module] * 6 if isinstance(module, int) else module
        one, reduce3, three, reduce5, five, pool = sizes
        total += conv(inputs, one, 1) + conv(inputs, reduce3, 1) + conv(reduce3, three, 3)
        total += conv(inputs, reduce5, 1) + conv(reduce5, five, 3) + conv(five, five, 3)
        total += conv(inputs, pool, 1)
        inputs = one + three + five + pool
    return total + (inputs + 1) * classes


def count_mobilenet(filters, classes, channels=3, last=1024):
    total = conv(channels, filters[0], 3, bias=False)
    for inputs, outputs in pairwise((*filters, last)):  # a depthwise and a pointwise conv each
        total += conv(1, inputs, 3, bias=False) + conv(inputs, outputs, 1, bias=False)
    return total + (last + 1) * classes


CLOSED_FORM = dict(
    zip(NAMES, (count_vgg, count_resnet, count_inception, count_mobilenet), strict=True)
)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("name", "options", "equations", "published"), COUNTS)
def test_published_counts(name, options, equations, published, convention):
    options = {"num_classes": 10, **options}
    expected = equations if convention == "equations" else published
    for template, count in zip(TEMPLATES, expected, strict=True):
        model = build(name, template, convention=convention, **options)
        rest = {key: value for key, value in options.items() if key == "head"}
        assert (template, count_params(model)) == (template, count)
        assert CLOSED_FORM[name](model.filters, options["num_classes"], **rest) == count


def test_the_pooled_head_has_fewer_parameters_on_200_classes():
    assert count_params(build("vgg19", num_classes=200)) == 20_137_992


def test_a_capped_inception_lies_away_from_the_published_count():
    filters = round_filters(solve(INCEPTION_MEANS, "quadratic", f_max=max(INCEPTION_MEANS)))
    assert count_params(build("inception", filters=filters)) == 6_836_048
    outputs = round_filters(solve(INCEPTION_OUTPUTS, "quadratic", f_max=1024))
    filters = [
        round_filters([Fraction(size * new, old) for size in sizes])
        for sizes, new, old in zip(
            FAMILIES["inception"].base, outputs, INCEPTION_OUTPUTS, strict=True
        )
    ]
    assert count_params(build("inception", filters=filters)) == 7_102_166


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", NAMES)
def test_every_combination_is_built_as_the_template_says(name, template, width):
    model = build(name, template, width, 100, in_chans=1)
    if name != "inception":
        expected = apply_template(FAMILIES[name].base, template, width)
    elif template == "base":
        expected = tuple(
            apply_template(sizes, "base", width) for sizes in FAMILIES["inception"].base
        )
    else:
        expected = round_filters(solve(INCEPTION_MEANS, template), width)
    assert model.filters == expected == redistribute(name, template, width)
    assert count_params(model) == CLOSED_FORM[name](expected, 100, channels=1)
    assert model.get_classifier().in_features == model.num_features
    assert (model.template, model.width, model.convention) == (template, width, "equations")
    assert model.options == default_options(name)


def test_the_base_is_the_network_that_timm_and_torchvision_know():
    with torch.device("meta"):
        names = ("vgg19_bn", "resnet50", "mobilenetv1_100")
        vgg, resnet, mobilenet = (timm.create_model(name) for name in names)
        googlenet = GoogLeNet(aux_logits=False, init_weights=False)
    theirs = {k: v for k, v in shapes(vgg).items() if k.startswith("features")}
    assert {k: v for k, v in shapes(build("vgg19")).items() if k.startswith("features")} == theirs
    ours, theirs = shapes(build("resnet50", num_classes=1000)), shapes(resnet)
    assert (ours.pop("conv1.weight"), theirs.pop("conv1.weight")) == ((64, 3, 3, 3), (64, 3, 7, 7))
    assert ours == theirs
    assert shapes(build("mobilenet", num_classes=1000)) == shapes(mobilenet)
    modules = [module for module in googlenet.modules() if isinstance(module, Inception)]
    sizes = [
        [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)] for module in modules
    ]
    assert build("inception").filters == tuple(map(tuple, sizes))


@pytest.mark.parametrize("name", NAMES)
def test_the_initial_weights_are_those_of_a_plain_network(name):
    torch.manual_seed(3)
    model = create_model(name, "negative_quadratic", 0.25)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()  # none is zero, as timm's ResNet would have them
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2 // module.groups
            deviation = module.weight.std().item() * (fan_out / 2) ** 0.5
            assert deviation == pytest.approx(1, abs=4 / module.weight.numel() ** 0.5)
            assert module.bias is None or module.bias.eq(0).all()
        elif isinstance(module, nn.Linear) and name in ("vgg19", "inception"):
            deviation = module.weight.std().item() / 0.01
            assert deviation == pytest.approx(1, abs=4 / module.weight.numel() ** 0.5)
            assert module.bias.eq(0).all()
        assert getattr(module, "p", 0) == 0  # no dropout
        assert not isinstance(module, nn.ReLU6)  # timm's MobileNet has it
    torch.manual_seed(3)
    again = create_model(name, "negative_quadratic", 0.25).state_dict()
    assert all(value.equal(again[key]) for key, value in model.state_dict().items())


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any tensor made under it has."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.most = max(self.most, result.numel())
        return result


@pytest.mark.parametrize("name", NAMES)
def test_no_head_of_100_million_parameters_is_ever_made(name):
    with LargestTensor() as largest:
        build(name)
    assert 1e5 < largest.most <= 512 * 512 * 9


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "options"), [*READINGS, ("vgg19", {"head": "flatten7x7"})])
def test_forward_and_backward(name, options, channels, size):
    template = TEMPLATES[(size // 32 + channels) % len(TEMPLATES)]
    model = create_model(name, template, 0.05, 7, in_chans=channels, **options)
    logits = model(images(size, channels))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for parameter in (logits, *(parameter.grad for parameter in model.parameters())):
        assert parameter is not None
        assert parameter.isfinite().all()


@pytest.mark.parametrize(("size", "sides"), [(32, (1, 4, 8, 2)), (64, (2, 8, 16, 4))])
def test_maps_are_as_large_as_small_images_need(size, sides):
    for name, side in zip(NAMES, sides, strict=True):
        model = build(name, width=0.05)
        features = model.forward_features(images(size).to("meta"))
        assert features.shape == (2, model.num_features, side, side)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(("name", "options"), READINGS)
def test_filters_leave_as_json_and_come_back(name, options, template):
    model = build(name, template, 0.3, **options)
    again = build(name, filters=json.loads(json.dumps(model.filters)))
    assert again.filters == model.filters
    assert count_params(again) == count_params(model)


@pytest.mark.parametrize("through_timm", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_may_be_numpys(name, through_timm):
    create = timm.create_model if through_timm else create_model
    with torch.device("meta"):
        model = create(
            f"fredist_{name}" if through_timm else name,
            num_classes=np.int64(7),
            in_chans=np.int32(1),
            filters=np.full(len(FAMILIES[name].base), 8),
        )
    assert (type(model.num_classes), model.num_classes) == (int, 7)
    assert model(torch.zeros(2, 1, 32, 32, device="meta")).shape == (2, 7)
    assert json.loads(json.dumps(model.filters)) == [8] * len(FAMILIES[name].base)


def test_filters_of_inception_may_be_mixed():
    filters = [[8, 4, 8, 4, 6, 2], *range(1, 9)]
    model = create_model("inception", filters=filters)
    assert model.filters == ((8, 4, 8, 4, 6, 2), *range(1, 9))
    assert count_params(model) == count_inception(filters, 10)
    assert model(images()).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "width", "fixed"),
    [("inception", 0.05, 10), ("inception", 1.6, 307), ("mobilenet", 0.05, 51)],
)
def test_what_stays_fixed_is_scaled_on_request_alone(name, width, fixed):
    argument, size = FAMILIES[name].fixed
    for options, expected in (({}, size), ({"scale_fixed": True}, fixed)):
        model = build(name, "uniform", width, **options)
        value = model.num_features if name == "mobilenet" else model.pre.conv.out_channels
        assert value == expected
        closed_form = CLOSED_FORM[name](model.filters, 10, **{argument: expected})
        assert count_params(model) == closed_form
    assert size == {"inception": 192, "mobilenet": 1024}[name]


@pytest.mark.parametrize(("name", "options"), READINGS)
def test_rounding_options_reach_the_network(name, options):
    for template in TEMPLATES:
        flat = []
        rounded = redistribute(name, template, 0.3, round_to=8, **options)
        assert build(name, template, 0.3, round_to=8, **options).filters == rounded
        for module in rounded:
            flat += [module] if isinstance(module, int) else module
        assert {n % 8 for n in flat} == {0}
        assert min(flat) >= 8
    if not options:
        kept = build(name, "quadratic", 0.7, keep_total=True)
        base = INCEPTION_MEANS if name == "inception" else FAMILIES[name].base
        assert sum(kept.filters) == round(0.7 * sum(base))


@pytest.mark.parametrize("name", NAMES)
def test_compare_puts_the_templates_beside_the_base(name):
    frame = compare(name, 0.5, 100, convention="published", image_size=64)
    assert frame.index.name == "template"
    assert tuple(frame.index) == TEMPLATES
    columns = "convention width filters params macs params_vs_base macs_vs_base"
    assert list(frame) == columns.split()
    for template, row in frame.iterrows():
        model = build(name, template, 0.5, 100, convention="published")
        assert (row["convention"], row["width"]) == ("published", 0.5)
        assert row["filters"] == model.filters
        assert row["params"] == count_params(model)
        if template == "reverse":
            assert row["macs"] == count_macs(model, 64)
        for column in ("params", "macs"):
            assert row[f"{column}_vs_base"] == row[column] / frame[column]["base"]


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("vgg19", 398_136_320),
        ("resnet50", 1_297_829_888),
        ("inception", 1_521_756_160),
        ("mobilenet", 46_354_432),
    ],
)
def test_strides_and_pools_stand_where_they_should(name, macs):
    assert count_macs(build(name)) == macs  # parameter counts do not see them


def test_compare_counts_as_the_notes_do():
    assert compare("resnet50").loc["reverse", "macs"] == pytest.approx(16.3e9, rel=0.003)
    one_channel = compare("vgg19", in_chans=1, head="flatten7x7")
    filters, sides = FAMILIES["vgg19"].base, (32,) * 2 + (16,) * 2 + (8,) * 4 + (4,) * 4 + (2,) * 4
    pairs = zip(pairwise((1, *filters)), sides, strict=True)
    macs = sum(9 * i * o * side**2 for (i, o), side in pairs) + 49 * 512 * 10
    assert one_channel.loc["base", "macs"] == macs
