"""The four networks: their exact sizes, their shapes, and what they refuse."""

import json
import math
import subprocess
import sys
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision.models import GoogLeNet
from torchvision.models.googlenet import Inception

from fredist import compare, create_model, departures, largest_width, make_network
from fredist.networks import FAMILIES, Network
from fredist.networks.families import NETWORKS
from fredist.networks.network import CONVENTIONS
from fredist.networks.vgg import Flatten7x7
from fredist.templates import TEMPLATES, apply_template, round_filters, solve

NAMES = ("vgg19", "resnet50", "inception", "mobilenet")
HEADS = [*((name, "pool") for name in NAMES), ("vgg19", "flatten7x7")]
WIDTHS = (1.6, 1.3, 1.0, 0.8, 0.5, 0.25, 0.1, 0.05)
TINY = {"num_classes": 200, "head": "flatten7x7"}
PUBLISHED = {"convention": "published"}
MEANS = tuple(Fraction(sum(sizes), 6) for sizes in FAMILIES["inception"].base[1:])
# Parameters by template, in the order of TEMPLATES.
COUNTS = {
    ("vgg19", 10, "published"): (20_035_018, 20_042_634, 15_999_106, 15_779_575, 19_984_458),
    ("vgg19", 10, "equations"): (20_035_018, 20_042_634, 15_999_106, 19_419_109, 19_984_458),
    ("resnet50", 10, "published"): (23_520_842, 23_131_914, 12_898_610, 19_017_002, 33_033_290),
    ("resnet50", 10, "equations"): (23_520_842, 23_131_914, 18_559_930, 19_017_002, 33_033_290),
    ("inception", 10, "published"): (6_166_250, 6_743_402, 6_177_162, 7_181_226, 7_028_168),
    ("inception", 10, "equations"): (6_166_250, 6_938_202, 6_273_796, 7_154_110, 7_028_168),
    ("mobilenet", 10, "published"): (3_217_226, 2_228_202, 2_219_050, 3_180_427, 2_434_482),
    ("mobilenet", 10, "equations"): (3_217_226, 2_228_202, 2_229_426, 3_180_427, 2_434_482),
    ("vgg19", 200, "published"): (25_047_688, 20_669_384, 19_367_056, 20_792_245, 20_611_208),
    ("mobilenet", 200, "published"): (3_411_976, 2_422_952, 2_413_800, 3_375_177, 2_629_232),
}


def build(name, *args, **kwargs):
    """Return the network without storage."""
    with torch.device("meta"):
        return create_model(name, *args, **kwargs)


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def images(size=32, channels=3):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def flat(filters):
    return [n for f in filters for n in (f if isinstance(f, tuple) else (f,))]


@pytest.mark.parametrize(("what", "expected"), COUNTS.items())
def test_counts_of_the_papers_networks(what, expected):
    name, classes, convention = what
    for template, number in zip(TEMPLATES, expected, strict=True):
        options = TINY if what[:2] == ("vgg19", 200) else {"num_classes": classes}
        model = build(name, template, convention=convention, **options)
        counted = sum(parameter.numel() for parameter in model.parameters())
        assert (template, counted) == (template, number) == (template, model.network.params)
        if (classes, convention) == (10, "published"):
            entry = NETWORKS[name][template]
            assert (entry["parameters_10_classes"], entry["strength"]) == (number, "before")


def test_the_six_departures_are_computed_and_explained():
    frame = departures().set_index(["model", "template"])
    explained = {(m, t) for m in NETWORKS for t in TEMPLATES if "departure" in NETWORKS[m][t]}
    uniform = {(name, "uniform") for name in ("resnet50", "mobilenet", "inception")}
    others = {("vgg19", "quadratic"), ("inception", "quadratic"), ("inception", "reverse")}
    assert set(frame.index) == explained == uniform | others
    row = frame.loc[("vgg19", "quadratic")]
    assert (row["params_equations"], row["params_published"]) == (19_419_109, 15_779_575)
    assert (row["filters_equations"][0], row["filters_published"][0]) == (811, 512)
    assert "512" in row["departure"]
    reverse = frame.loc[("inception", "reverse"), "filters_published"]
    assert reverse[:2] == (832, (384, 192, 384, 48, 128, 128))


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


def test_a_template_sees_the_exact_means_of_inceptions_modules():
    assert make_network("inception").layers() == MEANS
    assert sum(MEANS) == 1160
    assert make_network("inception", "reverse", convention="published").layers() == MEANS[::-1]
    assert make_network("mobilenet").layers() == FAMILIES["mobilenet"].base[:-1]


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
    kept = make_network("inception", "base", 0.7, keep_total=True)
    assert sum(flat(kept.filters)) == round(0.7 * (6960 + 192) + 1e-9)
    model = create_model("mobilenet", "uniform", 0.05, round_to=16)
    assert model.num_features == 48  # 51.2, the last block's
    assert make_network("mobilenet", "quadratic", vertex="middle").filters[6] == 32


def test_the_base_is_the_network_that_timm_and_torchvision_know():
    with torch.device("meta"):
        names = ("vgg19_bn", "resnet50", "mobilenetv1_100")
        vgg, resnet, mobilenet = (timm.create_model(name) for name in names)
        googlenet = GoogLeNet(aux_logits=False, init_weights=False)
    ours, theirs = (
        [m.weight.shape for m in net.features if hasattr(m, "weight")]
        for net in (build("vgg19"), vgg)
    )
    assert ours == theirs
    ours, theirs = shapes(build("resnet50", num_classes=1000)), shapes(resnet)
    assert (ours.pop("conv1.weight"), theirs.pop("conv1.weight")) == ((64, 3, 3, 3), (64, 3, 7, 7))
    assert ours == theirs
    assert shapes(build("mobilenet", num_classes=1000)) == shapes(mobilenet)
    sizes = [
        tuple(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d))
        for module in googlenet.modules()
        if isinstance(module, Inception)
    ]
    assert build("inception").filters[1:] == tuple(sizes)


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_initial_weights_are_the_authors(name, head):
    torch.manual_seed(3)
    model = create_model(name, "negative_quadratic", 0.25, head=head)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # no gain is zero, as timm's ResNet would have it
            assert module.weight.eq(0.5 if name == "vgg19" else 1).all()
            assert module.bias.eq(0).all()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            weight, bias, limit = module.weight, module.bias, module.weight[0].numel() ** -0.5
            std = limit / 3**0.5  # PyTorch's default: uniform in +-1 / sqrt(fan in)
            if name == "vgg19":  # normal
                std = 0.01 if isinstance(module, nn.Linear) else (2 / (9 * len(weight))) ** 0.5
                assert bias is None if isinstance(module, nn.Conv2d) else bias.eq(0).all()
                assert weight.abs().max() > 2.5 * std
            else:
                assert weight.abs().max() <= limit
                assert bias is None or 0 < bias.abs().max() <= limit
            assert (weight.std() / std).item() == pytest.approx(1, abs=4 / weight.numel() ** 0.5)
        assert getattr(module, "p", 0) == 0  # no dropout
        assert not isinstance(module, nn.ReLU6)  # timm's MobileNet has it
    torch.manual_seed(3)
    again = create_model(name, "negative_quadratic", 0.25, head=head).state_dict()
    assert all(value.equal(again[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (4, 4), (7, 7), (16, 15), (28, 33)])
def test_table_2s_head_pools_as_pytorch_does(height, width):
    # By matrix products, whose backward pass is deterministic on CUDA.
    maps = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    ours, theirs = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    pooled = Flatten7x7()(ours)
    expected = nn.functional.adaptive_avg_pool2d(theirs, 7).reshape(2, 3 * 49, 1, 1)
    torch.testing.assert_close(pooled, expected)
    (pooled * expected.detach()).sum().backward()
    (expected * expected.detach()).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(("name", "head"), HEADS)
def test_forward_and_backward(name, head, size):
    channels = size // 32
    model = create_model(name, TEMPLATES[channels], 0.05, 7, in_chans=channels, head=head)
    features = model.forward_features(images(size, channels))
    side = size // {"resnet50": 8, "inception": 4}.get(name, 16)  # as small images need
    assert features.shape == (2, model.num_features, side, side)
    logits = model.forward_head(features)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    for parameter in (logits, *(parameter.grad for parameter in model.parameters())):
        assert parameter is not None
        assert parameter.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_each_model_says_how_small_an_image_it_takes(name):
    model = create_model(name, width=0.05).eval()
    least = 16 if name == "vgg19" else 1
    for size in (least, least + 1):
        assert model(images(size)).shape == (2, 10)
    if name == "vgg19":
        message = "expected images of at least 16x16 for VGG-19, .* got 15x15: enlarge them"
        parts = timm.create_model("fredist_vgg19", width=0.05, features_only=True)
        for call in (model, model.forward_features, model.forward_intermediates, parts):
            with pytest.raises(ValueError, match=message):
                call(images(15))
        with pytest.raises(ValueError, match=r"at least 16x16 for VGG-19, .* got 8x8"):
            compare(name, image_size=8)
        with pytest.raises(ValueError, match=r"at least 16x16.*got 8x32"):
            model(images()[..., :8, :])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_knows_what_it_is_and_filters_come_back_from_json(name, convention):
    for template in TEMPLATES:
        network = make_network(name, template, 0.3, convention=convention)
        sent = json.loads(json.dumps(network.filters))
        again = make_network(name, filters=sent)
        assert again == Network(name, sent) == network
        assert hash(again) == hash(network)
    own, asked = build(name, filters=sent), build(name, template, 0.3, convention=convention)
    assert own.network == asked.network == network
    assert own.filters == asked.filters == network.filters
    assert (own.template, own.width, own.convention) == (None, None, None)
    assert (asked.template, asked.width, asked.convention) == (template, 0.3, convention)


def test_one_network_has_one_form():
    for ten in ([8] + [[8] * 6] * 9, np.full(10, 8)):
        assert Network("inception", ten) == Network("inception", (8,) * 10)
    mixed = make_network("inception", filters=[7, [8, 4, 8, 4, 6, 2], *range(1, 9)])
    assert mixed.filters == (7, (8, 4, 8, 4, 6, 2), *range(1, 9))
    assert mixed.layers()[0] == Fraction(32, 6)
    half, same = (make_network("vgg19", width=width) for width in (Fraction(1, 2), np.float16(0.5)))
    assert half == same == make_network("vgg19", width=0.5)
    own = make_network("vgg19", num_classes=np.int64(7), in_chans=np.uint8(1))
    assert [type(n) for n in (own.num_classes, own.in_chans)] == [int, int]


def test_compare_puts_the_templates_beside_the_original():
    frame = compare("resnet50", 0.5, 100, convention="published")
    columns = ["filters", "params", "macs", "params_vs_original", "macs_vs_original"]
    columns += ["width_at_params", "width_at_macs"]
    assert (frame.index.name, tuple(frame.index), list(frame)) == ("template", TEMPLATES, columns)
    original = make_network("resnet50", num_classes=100)  # not the base at the same width
    for template, row in frame.iterrows():
        network = make_network("resnet50", template, 0.5, 100, convention="published")
        costs = (network.filters, network.params, network.macs())
        ratios = (network.params / original.params, network.macs() / original.macs())
        assert tuple(row)[:5] == costs + ratios
    assert compare("resnet50", round_to=100).loc["uniform", "filters"] == (200,) * 4
    middle = compare("mobilenet", vertex="middle").loc["quadratic", "filters"]
    assert middle == make_network("mobilenet", "quadratic", vertex="middle").filters


def test_strides_and_pools_stand_where_they_should():  # parameter counts do not see them
    macs = (398_136_320, 1_297_829_888, 1_521_756_160, 46_354_432)
    assert tuple(make_network(name).macs() for name in NAMES) == macs


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
    "function", [create_model, compare, make_network, partial(largest_width, macs=1e9)]
)
def test_unknown_models_are_refused_and_what_takes_them_is_named(function):
    choices = r"choose from vgg19, resnet50, inception, mobilenet; fredist\.redistribute\('\w+', "
    for name, hint in (("googlenet", r" \(did you mean 'inception'\?\)"), ("resnet18", "")):
        with pytest.raises(ValueError, match=f"unknown model '{name}'{hint}; {choices}"):
            function(name)
    with pytest.raises(TypeError, match="expected a string as model, got 19; choose from vgg19"):
        function(19)


@pytest.mark.parametrize(
    ("template", "meant"),
    [
        *((word, "negative_quadratic") for word in ("neg_quadratic", "negquadratic", "nquadratic")),
        *((word, "negative_quadratic") for word in ("neg-quadrtic", "inverse quadratic")),
        *((word, "quadratic") for word in ("quadratics", "Quadratc", "quadratic_")),
        ("minus_quadratic", None),
        *((word, "reverse") for word in ("reversed", "rverse")),
    ],
)
def test_a_hint_never_names_the_opposite_parabola(template, meant):
    hint = rf" \(did you mean '{meant}'\?\)" if meant else ""
    with pytest.raises(ValueError, match=rf"unknown template '{template}'{hint}; choose from base"):
        make_network("vgg19", template)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 10.0}, TypeError, "integer of at least 0 as num_classes, got 10.0"),
        ({"in_chans": 0}, ValueError, "integer of at least 1 as in_chans, got 0"),
        ({"template": "unifrom"}, ValueError, "unknown template 'unifrom' .did you mean 'unif"),
        ({"convention": "paper"}, ValueError, "unknown convention 'paper'.*equations, published$"),
        ({"width": 0}, ValueError, "finite number above 0 as width, got 0"),
        ({"filters": [8, 8]}, ValueError, r"expected \d+ filters for .* got 2"),
        ({"filters": [8] * 4, "template": "uniform"}, ValueError, "filters or a template and wid"),
        ({"filters": [8] * 4, "width": 0.5}, ValueError, "=apply_template.filters, template, wid"),
        ({"filters": [8], **PUBLISHED, "round_to": 2}, ValueError, "convention, round_to; redis"),
        ({**PUBLISHED, "keep_total": True}, ValueError, "'published' without keep_total, as the "),
        ({**PUBLISHED, "vertex": "middle"}, ValueError, "'published' without vertex, as the pape"),
        ({"vertex": "middle"}, ValueError, "vertex='middle' with the quadratic only, got base"),
        ({"width": 1e300}, ValueError, "expected at most 100,000,000 as filters, got more"),
        ({"in_chans": 10**9}, ValueError, "at most 100,000,000 as in_chans, got 1000000000"),
        ({"keep_total": True, "round_to": 8}, ValueError, "got both"),
        ({"keep_totl": True}, TypeError, r"'keep_totl' \(did you mean 'keep_total'\?\); it has t"),
        ({"drop_rat": 0.5}, TypeError, r"has no option 'drop_rat' \(did you mean 'drop_rate'"),
        ({"norm_layer": nn.Identity}, TypeError, "has no option 'norm_layer'"),
        ({"out_indices": (0,)}, TypeError, "has no option 'out_indices'"),
    ],
)
def test_other_arguments_of_a_network_are_refused(arguments, error, message):
    for name in NAMES:
        for create in (create_model, lambda name, **kw: timm.create_model(f"fredist_{name}", **kw)):
            with pytest.raises(error, match=message):
                create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg19", {"head": "fc"}, "unknown head of vgg19 'fc'; choose from pool, flatten7x7"),
        ("mobilenet", {"head": "flatten7x7"}, "head of mobilenet 'flatten7x7'; choose from pool"),
        ("mobilenet", {"filters": [8] * 13}, "14 filters for MobileNet, got 13: .*, 1024, 1024$"),
        ("inception", {"filters": [8] * 9}, "10 filters for Inception, got 9: .* base's, 192, "),
        ("inception", {"filters": [8, [8] * 5] + [8] * 8}, "expected 6 filters, .* got 5"),
        ("inception", {"filters": [8, [8] * 5 + [0]] + [8] * 8}, "at least 1 as filters, got 0"),
        ("inception", {"filters": [8, [10**9] * 6] + [8] * 8}, "at most 100,000,000 as filters"),
    ],
)
def test_other_options_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_network(name, **arguments)


def test_sixes_belong_to_inceptions_modules():  # whose pre-layer has one size
    for name, family in FAMILIES.items():
        with pytest.raises(TypeError, match=r"integer of at least 1 as filters, got \[8, 8,"):
            make_network(name, filters=[[8] * 6] * len(family.base))


def test_compare_says_what_it_takes():
    message = "compare, one row per template, has no option 'template'.*; it has width, num_cla"
    with pytest.raises(TypeError, match=message):
        compare("vgg19", template="base")
