"""The four networks: their exact sizes, their shapes, and what they refuse."""

import json
import math
import subprocess
import sys
from fractions import Fraction
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models import GoogLeNet
from torchvision.models.googlenet import Inception

from fredist import compare, create_model, departures, make_network
from fredist.networks import FAMILIES, Network
from fredist.networks.families import NETWORKS
from fredist.networks.network import CONVENTIONS
from fredist.templates import TEMPLATES, apply_template, round_filters, solve

NAMES = ("vgg19", "resnet50", "inception", "mobilenet")
WIDTHS = (1.6, 1.3, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05)
TINY = {"num_classes": 200, "head": "flatten7x7"}
MEANS = tuple(Fraction(sum(sizes), 6) for sizes in FAMILIES["inception"].base[1:])
# Parameters by template, in the order of TEMPLATES: as published, by the equations.
COUNTS = [
    (
        ("vgg19", {}),
        (20_035_018, 20_042_634, 15_999_106, 15_779_575, 19_984_458),
        (20_035_018, 20_042_634, 15_999_106, 19_419_109, 19_984_458),
    ),
    (
        ("resnet50", {}),
        (23_520_842, 23_131_914, 12_898_610, 19_017_002, 33_033_290),
        (23_520_842, 23_131_914, 18_559_930, 19_017_002, 33_033_290),
    ),
    (
        ("inception", {}),
        (6_166_250, 6_743_402, 6_177_162, 7_181_226, 7_028_168),
        (6_166_250, 6_938_202, 6_273_796, 7_154_110, 7_028_168),
    ),
    (
        ("mobilenet", {}),
        (3_217_226, 2_228_202, 2_219_050, 3_180_427, 2_434_482),
        (3_217_226, 2_228_202, 2_229_426, 3_180_427, 2_434_482),
    ),
    (
        ("vgg19", TINY),
        (25_047_688, 20_669_384, 19_367_056, 20_792_245, 20_611_208),
        (25_047_688, 20_669_384, 19_367_056, 27_358_989, 20_611_208),
    ),
    (
        ("mobilenet", {"num_classes": 200}),
        (3_411_976, 2_422_952, 2_413_800, 3_375_177, 2_629_232),
        (3_411_976, 2_422_952, 2_424_176, 3_375_177, 2_629_232),
    ),
]


def build(name, *args, **kwargs):
    """Return the network without storage."""
    with torch.device("meta"):
        return create_model(name, *args, **kwargs)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def images(size=32, channels=3):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def flat(filters):
    return [n for f in filters for n in (f if isinstance(f, tuple) else (f,))]


@pytest.mark.parametrize(("what", "published", "equations"), COUNTS)
def test_counts_of_the_papers_networks(what, published, equations):
    name, options = what
    for convention, expected in (("published", published), ("equations", equations)):
        for template, number in zip(TEMPLATES, expected, strict=True):
            model = build(name, template, convention=convention, **options)
            assert (template, count(model)) == (template, number)
            assert model.network.params == number


def test_the_published_data_say_where_they_are_from():
    assert set(NETWORKS) == set(NAMES)
    published = {what[0]: counts for what, counts, _ in reversed(COUNTS)}
    for name, template in product(NAMES, TEMPLATES):
        entry = NETWORKS[name][template]
        assert entry["parameters_10_classes"] == published[name][TEMPLATES.index(template)]
        assert entry["strength"] == "before"


def test_the_six_departures_are_computed_and_explained():
    frame = departures().set_index(["model", "template"])
    assert set(frame.index) == {
        ("vgg19", "quadratic"),
        ("resnet50", "uniform"),
        ("mobilenet", "uniform"),
        ("inception", "uniform"),
        ("inception", "quadratic"),
        ("inception", "reverse"),
    }
    explained = {(m, t) for m in NETWORKS for t in TEMPLATES if "departure" in NETWORKS[m][t]}
    assert explained == set(frame.index)
    row = frame.loc[("vgg19", "quadratic")]
    assert (row["params_equations"], row["params_published"]) == (19_419_109, 15_779_575)
    assert (row["filters_equations"][0], row["filters_published"][0]) == (811, 512)
    assert "512" in row["departure"]
    assert frame.loc[("inception", "reverse"), "filters_published"][:2] == (
        832,
        (384, 192, 384, 48, 128, 128),
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_scaled_by_the_equations_and_truncated_as_published(name):
    family = FAMILIES[name]
    seen = make_network(name).layers()
    for template, width in product(TEMPLATES, WIDTHS):
        if template == "base":
            expected = round_filters(flat(family.base), width)
        else:
            expected = round_filters(solve(seen, template), width)
            if name == "inception":
                expected = (expected[0], *expected)
            elif name == "mobilenet":
                expected = (*expected, *apply_template([1024], "base", width))
        network = make_network(name, template, width, 100, in_chans=1)
        assert tuple(flat(network.filters)) == expected
        published = make_network(name, template, width, convention="published")
        full = make_network(name, template, convention="published")
        pairs = zip(flat(published.filters), flat(full.filters), strict=True)
        assert all(n == max(1, math.floor(Fraction(str(width)) * m)) for n, m in pairs)


def test_inception_is_seen_by_the_exact_means_of_its_modules():
    network = make_network("inception")
    assert network.layers() == MEANS
    assert sum(MEANS) == 1160
    assert min(MEANS) == Fraction(184, 3)
    assert make_network("inception", "reverse", convention="published").layers() == MEANS[::-1]
    reverse = make_network("inception", "reverse").filters
    assert reverse[1:] == round_filters(MEANS[::-1])
    assert reverse[0] == reverse[1]
    assert make_network("mobilenet").layers() == FAMILIES["mobilenet"].base[:-1]
    assert make_network("vgg19").layers() == FAMILIES["vgg19"].base


def test_rounding_options_reach_every_layer():
    for name, template in product(NAMES, TEMPLATES):
        sizes = flat(make_network(name, template, 0.3, round_to=8).filters)
        assert {n % 8 for n in sizes} == {0}
        assert min(sizes) >= 8
    for template in TEMPLATES:
        kept = make_network("mobilenet", template, 0.7, keep_total=True)
        assert sum(kept.filters) == round(0.7 * (4960 + 1024))
    kept = make_network("inception", "uniform", 0.7, keep_total=True)
    assert sum(kept.filters[1:]) == round(0.7 * 1160)
    assert kept.filters[0] == kept.filters[1]
    kept = make_network("inception", "base", 0.7, keep_total=True)
    assert sum(flat(kept.filters)) == round(0.7 * (6960 + 192) + 1e-9)
    model = create_model("mobilenet", "uniform", 0.05, round_to=16)
    assert model.num_features == 48  # 51.2, the last block's
    middle = make_network("mobilenet", "quadratic", vertex="middle")
    assert middle.filters[6] == min(middle.filters) == 32


def test_the_base_is_the_network_that_timm_and_torchvision_know():
    with torch.device("meta"):
        names = ("vgg19_bn", "resnet50", "mobilenetv1_100")
        vgg, resnet, mobilenet = (timm.create_model(name) for name in names)
        googlenet = GoogLeNet(aux_logits=False, init_weights=False)
    ours, theirs = (
        [m for m in net.features if hasattr(m, "weight")] for net in (build("vgg19"), vgg)
    )
    assert [m.weight.shape for m in ours] == [m.weight.shape for m in theirs]
    ours, theirs = shapes(build("resnet50", num_classes=1000)), shapes(resnet)
    assert (ours.pop("conv1.weight"), theirs.pop("conv1.weight")) == ((64, 3, 3, 3), (64, 3, 7, 7))
    assert ours == theirs
    assert shapes(build("mobilenet", num_classes=1000)) == shapes(mobilenet)
    modules = [module for module in googlenet.modules() if isinstance(module, Inception)]
    sizes = [
        [m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)] for module in modules
    ]
    assert build("inception").filters[1:] == tuple(map(tuple, sizes))


def deviation(weight):
    """Return the standard deviation and how far it may be off."""
    return weight.std().item(), 4 / weight.numel() ** 0.5


def test_vggs_initial_weights_are_the_authors_own():
    torch.manual_seed(3)
    model = create_model("vgg19", "negative_quadratic", 0.25, 100)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            std, off = deviation(module.weight)
            assert std / (2 / (9 * module.out_channels)) ** 0.5 == pytest.approx(1, abs=off)
            assert module.weight.abs().max() > 2.5 * std  # normal, not uniform
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(0.5).all()
            assert module.bias.eq(0).all()
    for classifier in (
        model.get_classifier(),
        create_model("vgg19", width=0.05, head="flatten7x7").get_classifier(),
    ):
        std, off = deviation(classifier.weight)
        assert std / 0.01 == pytest.approx(1, abs=off)
        assert classifier.bias.eq(0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vgg19"])
def test_the_others_initial_weights_are_pytorchs_default(name):
    torch.manual_seed(3)
    model = create_model(name, "negative_quadratic", 0.25)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()  # none is zero, as timm's ResNet would have them
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            bound = (module.weight[0].numel()) ** -0.5  # uniform in +-1 / sqrt(fan in)
            assert module.weight.abs().max() <= bound
            std, off = deviation(module.weight)
            assert std / (bound / 3**0.5) == pytest.approx(1, abs=off)
            assert module.bias is None or 0 < module.bias.abs().max() <= bound
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
@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in NAMES), ("vgg19", TINY)])
def test_forward_and_backward(name, options, size):
    channels = size // 32
    template = TEMPLATES[channels]
    options = {**options, "num_classes": 7}
    model = create_model(name, template, 0.05, in_chans=channels, **options)
    logits = model(images(size, channels))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for parameter in (logits, *(parameter.grad for parameter in model.parameters())):
        assert parameter is not None
        assert parameter.isfinite().all()


@pytest.mark.parametrize(("size", "sides"), [(32, (2, 4, 8, 2)), (64, (4, 8, 16, 4))])
def test_maps_are_as_large_as_small_images_need(size, sides):
    for name, side in zip(NAMES, sides, strict=True):
        model = build(name, width=0.05)
        features = model.forward_features(images(size).to("meta"))
        assert features.shape == (2, model.num_features, side, side)


@pytest.mark.parametrize("name", NAMES)
def test_each_model_says_how_small_an_image_it_takes(name):
    model = create_model(name, width=0.05).eval()
    least = 16 if name == "vgg19" else 1
    for size in (least, least + 1):
        assert model(images(size)).shape == (2, 10)
    if name == "vgg19":
        message = "expected images of at least 16x16 for VGG-19, .* got 15x15: enlarge them"
        parts = timm.create_model("fredist_vgg19", width=0.05, features_only=True)
        calls = [model, model.forward_features, model.forward_intermediates, parts]
        for call in calls:
            with pytest.raises(ValueError, match=message):
                call(images(15))
        with pytest.raises(ValueError, match=r"at least 16x16 for VGG-19, .* got 8x8"):
            compare(name, image_size=8)
        with pytest.raises(ValueError, match=r"at least 16x16.*got 8x32"):
            model(images()[..., :8, :])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_filters_leave_as_json_and_come_back(name, convention):
    for template in TEMPLATES:
        network = make_network(name, template, 0.3, convention=convention)
        sent = json.loads(json.dumps(network.filters))
        again = make_network(name, filters=sent)
        assert again == Network(name, sent) == network
        assert hash(again) == hash(network)
    model = create_model(name, filters=sent)
    assert model.filters == network.filters
    assert (model.network, model.template, model.width, model.convention) == (network, *[None] * 3)


def test_one_network_has_one_form():
    ten = [8] + [[8, 8, 8, 8, 8, 8]] * 9
    assert Network("inception", ten) == Network("inception", (8,) * 10)
    assert Network("inception", np.full(10, 8)) == Network("inception", (8,) * 10)
    mixed = make_network("inception", filters=[7, [8, 4, 8, 4, 6, 2], *range(1, 9)])
    assert mixed.filters == (7, (8, 4, 8, 4, 6, 2), *range(1, 9))
    assert mixed.layers()[0] == Fraction(32, 6)
    one, other = (make_network("vgg19", width=width) for width in (0.5, Fraction(1, 2)))
    assert one == other == make_network("vgg19", width=np.float16(0.5))
    assert make_network("vgg19", width=np.uint8(2)) == make_network("vgg19", width=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_knows_how_it_was_asked_for(name):
    model = build(name, "reverse", 0.5, 20, convention="published", in_chans=1)
    network = make_network(name, "reverse", 0.5, 20, convention="published", in_chans=1)
    assert (model.network, model.filters) == (network, network.filters)
    assert (model.template, model.width, model.convention) == ("reverse", 0.5, "published")
    assert network.label == FAMILIES[name].label


@pytest.mark.parametrize("name", NAMES)
def test_sizes_may_be_numpys(name):
    filters = np.full(len(FAMILIES[name].base), 8)
    model = create_model(name, num_classes=np.int64(7), in_chans=np.int32(1), filters=filters)
    assert (type(model.num_classes), model.num_classes) == (int, 7)
    assert model(images(channels=1)).shape == (2, 7)
    assert json.loads(json.dumps(model.filters)) == filters.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_compare_puts_the_templates_beside_the_original(name):
    frame = compare(name, 0.5, 100, convention="published")
    assert (frame.index.name, tuple(frame.index)) == ("template", TEMPLATES)
    columns = ["filters", "params", "macs", "params_vs_original", "macs_vs_original"]
    assert list(frame) == columns
    original = make_network(name, num_classes=100)
    for template, row in frame.iterrows():
        network = make_network(name, template, 0.5, 100, convention="published")
        assert (row["filters"], row["params"]) == (network.filters, network.params)
        assert row["macs"] == network.macs()
        assert row["params_vs_original"] == row["params"] / original.params
        assert row["macs_vs_original"] == row["macs"] / original.macs()
    assert frame.loc["base", "params_vs_original"] < 0.35  # not of the base at the same width


def test_compare_passes_its_options_on():
    middle = compare("mobilenet", vertex="middle").loc["quadratic", "filters"]
    assert middle[:13] == apply_template(middle_base(), "quadratic", vertex="middle")
    assert compare("resnet50", round_to=100).loc["uniform", "filters"] == (200,) * 4
    state = torch.get_rng_state()
    compare("mobilenet", 0.1)
    assert state.equal(torch.get_rng_state())


def middle_base():
    return FAMILIES["mobilenet"].base[:-1]


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
    assert make_network(name).macs() == macs  # parameter counts do not see them


def test_macs_count_the_convs_and_the_classifier():
    network = make_network("vgg19", in_chans=1, head="flatten7x7")
    filters, sides = FAMILIES["vgg19"].base, (32,) * 2 + (16,) * 2 + (8,) * 4 + (4,) * 4 + (2,) * 4
    pairs = zip(pairwise((1, *filters)), sides, strict=True)
    assert network.macs(32) == sum(9 * i * o * s**2 for (i, o), s in pairs) + 49 * 512 * 10
    assert make_network("resnet50", "reverse").macs() == pytest.approx(16.3e9, rel=0.003)


def test_importing_fredist_waits_for_nothing():
    code = (
        "import sys, fredist, fredist.networks as n; "
        "print(fredist.apply_template([1, 3], 'reverse'), n.make_network('resnet50').params); "
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'pandas', 'matplotlib'}; "
        "print(heavy & set(sys.modules), sys.meta_path == before)"
    )
    command = [sys.executable, "-c", f"import sys; before = list(sys.meta_path); {code}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(3, 1) 23520842\nset() True\n", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("googlenet", r"'googlenet' \(did you mean 'inception'\?\); choose from vgg19, "),
        (
            "resnet18",
            "unknown model 'resnet18'; choose from vgg19, resnet50, inception, mobilenet$",
        ),
        ("efficientnet_b0", "'efficientnet_b0'; choose from vgg19, resnet50, inception, mobilenet"),
        ("ResNet-50", r"unknown model 'ResNet-50' \(did you mean 'resnet50'"),
    ],
)
@pytest.mark.parametrize("function", [create_model, compare, make_network])
def test_unknown_models_are_refused(function, name, message):
    with pytest.raises(ValueError, match=message):
        function(name)
    with pytest.raises(TypeError, match="expected a string as model, got 19; choose from vgg19"):
        function(19)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": True}, TypeError, "integer of at least 0 as num_classes, got True"),
        ({"num_classes": 10.0}, TypeError, "integer of at least 0 as num_classes, got 10.0"),
        ({"num_classes": -1}, ValueError, "integer of at least 0 as num_classes, got -1"),
        ({"in_chans": 0}, ValueError, "integer of at least 1 as in_chans, got 0"),
        ({"template": "unifrom"}, ValueError, "unknown template 'unifrom' .did you mean 'unif"),
        ({"convention": "paper"}, ValueError, "unknown convention 'paper'.*equations, published$"),
        ({"width": 0}, ValueError, "finite number above 0 as width, got 0"),
        ({"width": "1"}, TypeError, "number above 0 as width, got '1'"),
        ({"filters": 64}, TypeError, "a list of filters per layer, got 64"),
        ({"filters": []}, ValueError, "got an empty list of filters"),
        ({"filters": [8, 8]}, ValueError, r"expected \d+ filters for .* got 2"),
        ({"filters": [8] * 3 + [0]}, ValueError, "at least 1 as filters, got 0"),
        ({"filters": [8] * 3 + [8.0]}, TypeError, "at least 1 as filters, got 8.0"),
        ({"filters": {8, 9}}, TypeError, r"a list of filters per layer, got \{"),
        ({"filters": [8] * 4, "template": "uniform"}, ValueError, "filters or a template and wid"),
        ({"filters": [8] * 4, "width": 0.5}, ValueError, "=apply_template.filters, template, wid"),
        ({"filters": [8] * 4, "keep_total": True}, ValueError, "got filters and keep_total; redis"),
        ({"filters": [8] * 4, "vertex": "middle"}, ValueError, "got filters and vertex; redistri"),
        (
            {"filters": [8] * 4, "convention": "published", "round_to": 2},
            ValueError,
            "got filters and convention, round_to; redistribute",
        ),
        (
            {"convention": "published", "keep_total": True},
            ValueError,
            "convention='published' without keep_total, as the paper ran its networks: leave it o",
        ),
        ({"convention": "published", "round_to": 8}, ValueError, "without round_to, as the paper"),
        (
            {"convention": "published", "vertex": "middle", "template": "quadratic"},
            ValueError,
            "without vertex, as the paper",
        ),
        ({"vertex": "middle"}, ValueError, "vertex='middle' with the quadratic only, got base"),
        ({"keep_total": 1}, TypeError, "True or False as keep_total, got 1"),
        ({"width": 1e300}, ValueError, "expected at most 100,000,000 as filters, got more"),
        ({"round_to": 10**400}, ValueError, "expected at most 100,000,000 as filters, got more"),
        ({"num_classes": 10**400}, ValueError, "at most 100,000,000 as num_classes, got more"),
        ({"in_chans": 10**9}, ValueError, "at most 100,000,000 as in_chans, got 1000000000"),
        ({"keep_total": True, "round_to": 8}, ValueError, "got both"),
        (
            {"keep_totl": True},
            TypeError,
            r"no option 'keep_totl' \(did you mean 'keep_total'\?\); it has template, width, ",
        ),
        ({"widht": 0.5}, TypeError, r"has no option 'widht' \(did you mean 'width'\?\)"),
        ({"reading": "proportional"}, TypeError, "has no option 'reading'; it has template"),
        ({"scale_fixed": True}, TypeError, "has no option 'scale_fixed'"),
        ({"drop_rate": 0.5}, TypeError, "has no option 'drop_rate'"),
        ({"out_indices": (0,)}, TypeError, "has no option 'out_indices'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("through_timm", [False, True])
def test_other_arguments_of_a_network_are_refused(name, arguments, error, message, through_timm):
    create = partial(timm.create_model, f"fredist_{name}")
    with pytest.raises(error, match=message):
        (create if through_timm else partial(create_model, name))(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg19", {"head": "fc"}, "unknown head of vgg19 'fc'; choose from pool, flatten7x7"),
        ("mobilenet", {"head": "flatten7x7"}, "head of mobilenet 'flatten7x7'; choose from pool"),
        (
            "mobilenet",
            {"filters": [8] * 13},
            "14 filters for MobileNet, got 13: one for each of its base's",
        ),
        (
            "inception",
            {"filters": [8] * 9},
            "10 filters for Inception, got 9: one for each of its base's",
        ),
        ("vgg19", {"filters": [8] * 15}, "16 filters for VGG-19, got 15: one for each"),
        ("inception", {"filters": [8, [8] * 5] + [8] * 8}, "expected 6 filters, .* got 5"),
        ("inception", {"filters": [8, [8] * 5 + [0]] + [8] * 8}, "at least 1 as filters, got 0"),
        ("inception", {"filters": [8, [10**9] * 6] + [8] * 8}, "at most 100,000,000 as filters"),
    ],
)
def test_other_options_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)
    with pytest.raises(ValueError, match=message):
        make_network(name, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_sixes_belong_to_inceptions_modules(name):
    filters = [[8] * 6] * len(FAMILIES[name].base)  # the pre-layer has one size
    with pytest.raises(TypeError, match=r"integer of at least 1 as filters, got \[8, 8,"):
        make_network(name, filters=filters)


@pytest.mark.parametrize("option", ["template", "filters", "features_only", "in_chan"])
def test_compare_says_what_it_takes(option):
    message = f"compare, one row per template, has no option '{option}'.*; it has width, num_cla"
    with pytest.raises(TypeError, match=message):
        compare("vgg19", **{option: "base"})
