"""Any network's filters, redistributed: layers found by a trace, budgets kept, modules whole."""

import copy
import json
import math
import time
from collections import OrderedDict
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import fredist
from fredist import TEMPLATES, make_network, rebuild, redistribute
from fredist.coupled import study

quietly = partial(redistribute, quiet=True)


class Zoo(nn.Module):
    """One of each kind of coupling: sums, concatenations, groups, splits, gates, a shuffle."""

    def __init__(self, split=12):
        super().__init__()
        self.split, self.sizes, self.order = split, [8, 16], [12, 10, 8, 0]  # no channels
        self.stem = nn.Conv2d(3, 24, 3, 2, 1, bias=False)
        self.norm = nn.GroupNorm(4, 24)
        self.expand = nn.Conv2d(24, 36, 1)
        self.depthwise = nn.Conv2d(36, 36, 3, padding=1, groups=36)
        self.squeeze, self.excite = nn.Conv2d(36, 9, 1), nn.Conv2d(9, 36, 1)
        self.project = nn.Conv2d(36, 24, 1)  # coupled with the stem by the sum
        self.part = nn.Conv2d(12, 20, 3, padding=1)  # reads a slice of 24
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)  # reads 12 + 20, shuffled
        self.mixed = nn.Conv2d(32, 24, 1)  # whose filters are split into 8 and 16
        self.small, self.large = nn.Conv2d(8, 10, 1), nn.Conv2d(16, 10, 3, padding=1)
        self.scale, self.gain = nn.Parameter(torch.ones(10, 1, 1)), nn.Parameter(torch.tensor(2.0))
        self.dropped = nn.Conv2d(10, 6, 1)  # not used in the forward pass
        self.hidden, self.classifier = nn.Linear(10 * 4, 30), nn.Linear(30, 7)

    def forward(self, images):
        x = self.norm(self.stem(images))
        y = F.relu(self.depthwise(self.expand(x)))
        y = y * self.excite(self.squeeze(y.mean((2, 3), keepdim=True))).sigmoid()
        x = x + self.project(y)
        x = torch.cat([x[:, : self.split], self.part(x[:, self.split :])], 1)
        n, c, h, w = x.shape
        x = x.view(n, 4, c // 4, h, w).transpose(1, 2).reshape(n, c, h, w)
        small, large = torch.split(self.mixed(self.grouped(x)), self.sizes, 1)
        x = self.gain * self.scale * (self.small(small) + self.large(large))
        pixels = F.adaptive_avg_pool2d(x, 4).flatten(2)[:, :, self.order]
        return self.classifier(self.hidden(pixels.flatten(1)))


def sizes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_each_kind_of_coupling_is_found_and_rebuilt():
    original = Zoo()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    model = quietly(original, "uniform", 1.5, image_size=16)
    table = model.redistribution.table.set_index("layer")
    # By hand: stem with project, expand with depthwise, part, grouped, mixed, small with large.
    assert table["before"].to_dict() == {
        "stem": 24, "expand": 36, "part": 20, "grouped": 32, "mixed": 24, "small": 10,
    }  # fmt: skip
    assert table["convs"].tolist() == [2, 2, 1, 1, 1, 2]
    wish = math.floor(1.5 * sum(table["before"]) / 6 + 0.5)
    assert all(abs(after - wish) <= 4 for after in table["after"])
    noted = table.loc[table["after"] != wish, "note"]
    assert noted.str.contains(f"{wish} would not run").all()
    shapes = sizes(model)
    assert shapes["stem.weight"][0] == shapes["project.weight"][0] == table.after["stem"]
    assert shapes["squeeze.weight"][0] == round(table.after["expand"] * 9 / 36)  # its proportion
    assert model.depthwise.groups == model.depthwise.in_channels == table.after["expand"]
    assert (model.grouped.groups, model.norm.num_channels) == (4, table.after["stem"])
    assert sum(model.sizes) == table.after["mixed"]
    assert 3 * model.sizes[0] == pytest.approx(table.after["mixed"], abs=3)
    assert (type(model), model.training) == (Zoo, True)
    model(torch.rand(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "dropped" not in name)
    # The original is as it was.
    assert all(torch.equal(before[name], tensor) for name, tensor in original.state_dict().items())


def test_the_base_at_width_one_is_the_original_to_the_last_parameter():
    for name in ("test_efficientnet", "resnet18"):
        plan = study(name, 64).plan("base", 1.0)
        assert (plan.params[0], plan.shapes, plan.integers) == (plan.params[1], {}, ())


@pytest.mark.parametrize(
    "name",
    ["resnet18", "test_efficientnet", pytest.param("convnext_atto", marks=pytest.mark.slow)],
)
def test_layers_do_not_depend_on_the_size_of_the_images(name):
    """Though the last stage's maps are one pixel for images of 32."""
    small, own = (study(name, size).found.layers for size in (32, None))
    assert [(layer.convs, layer.filters) for layer in small] == [
        (layer.convs, layer.filters) for layer in own
    ]


def test_a_network_may_compute_in_another_type():
    model = quietly(Partial().bfloat16(), "uniform", 2.0, image_size=8)
    assert model(torch.rand(1, 3, 8, 8).bfloat16()).dtype == torch.bfloat16
    assert quietly(Partial().bfloat16(), "uniform", like="memory", image_size=8).stem.weight.numel()


STAGES = {"tie": [["conv1", "layer1"], "layer2", "layer3", "layer4"]}


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("vgg19", {}),
        pytest.param("resnet50", STAGES, marks=pytest.mark.slow),
        ("mobilenet", {"fixed": ["blocks.4.1"]}),
        pytest.param("inception", None, marks=pytest.mark.slow),
    ],
)
def test_traced_layers_agree_with_the_papers_own(model, asked):
    original = study(f"timm/fredist_{model}")
    modules = [f"features.{i}" for i in (1, 2, 4, 5, 6, 7, 8, 10, 11)]
    for template, width in product(TEMPLATES, (0.5, 1.3)):
        odd = template == "quadratic" and model in ("mobilenet", "inception")
        own = {"vertex": "middle"} if odd else {}
        network = make_network(model, template, width, **own)
        if asked is not None:
            plan = original.plan(template, width, **asked, **own)
        elif template != "base":
            plan = original.plan(filters=network.filters, groups=modules)
        else:  # whose modules have six sizes of their own
            continue
        assert (plan.params[1], plan.macs[1]) == (network.params, network.macs(32))


def test_budgets_choose_the_largest_width_that_fits():
    original = study("test_efficientnet", 64, num_classes=10)
    for what in ("params", "macs"):
        model = quietly("test_efficientnet", "uniform", like=what, image_size=64, num_classes=10)
        found = model.redistribution
        before, after = getattr(found, what)
        assert after <= before < getattr(original.plan("uniform", found.width + 1e-4), what)[1]
        assert sum(p.numel() for p in model.parameters()) == found.params[1]
    small = quietly("vgg19", "uniform", params=100_000).redistribution
    assert small.width == fredist.largest_width("vgg19", "uniform", params=100_000)
    lean = quietly("vgg19", "reverse", memory=60e6).redistribution
    assert 0.05 < lean.width < 0.5
    with pytest.raises(ValueError, match=r"expected at least [\d,]+ as params.*, got 10"):
        quietly("test_efficientnet", "uniform", params=10, image_size=64)
    with pytest.raises(
        ValueError, match="expected one of width, like and a budget, got macs, like"
    ):
        quietly("vgg19", "uniform", like="params", macs=1e6)


class Sleeper(nn.Module):
    """Takes 4 ms for each filter, and more only where something else keeps the machine busy."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.second(self.first(x))
        if x.device.type == "cpu":  # not where it is traced
            time.sleep(0.004 * x.shape[1])
        return self.head(x.mean((2, 3)))


def test_latency_is_met_by_the_largest_width_of_a_grid():
    roomy = quietly(Sleeper(), "uniform", latency=1e4, image_size=16).redistribution
    assert 3 * roomy.macs[0] < roomy.macs[1] <= 4 * roomy.macs[0]  # where the walk begins
    found = quietly(Sleeper(), "uniform", latency=50, image_size=16).redistribution
    assert round(20 * found.width, 6).is_integer()
    (filters, *others) = {row.after for row in found.rows}
    assert (others, 1 < filters <= 12) == ([], True)  # 12 take 48 ms; a busy machine allows fewer


def test_a_network_is_rebuilt_from_json_alone():
    model = quietly("test_efficientnet", "reverse", 0.7, image_size=64, num_classes=10)
    text = model.redistribution.to_json()
    again = rebuild(text)
    assert (sizes(again), again.redistribution) == (sizes(model), model.redistribution)
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(again.eval()(images), model.eval()(images))
    assert json.loads(text)["source"] == "timm/test_efficientnet"
    own = quietly(Zoo(), "reverse", image_size=16).redistribution.to_json()
    assert sizes(rebuild(own, Zoo()))["classifier.weight"] == (
        7,
        sizes(rebuild(own, Zoo()))["hidden.bias"][0],
    )
    with pytest.raises(ValueError, match="expected the original network beside the filters of one"):
        rebuild(own)


def test_numbers_of_other_kinds_are_held_as_pythons_own():
    options = {"num_classes": np.int64(7), "in_chans": np.uint8(1)}
    for name, size in (("vgg19", np.int64(32)), ("test_efficientnet", [64, 32])):
        for width in (np.float32(0.1), Fraction(1, 10)):
            found = quietly(name, "uniform", width, image_size=size, **options).redistribution
            again = fredist.Redistribution.from_json(found.to_json())
            assert (again, again.width, again.options["num_classes"]) == (found, 0.1, 7)


def test_json_of_another_network_is_refused():
    plan = study(Partial(), 8).plan("uniform", 2.0)
    text, held = plan.to_json(), json.loads(plan.to_json())
    others = [
        ("expected a redistribution's to_json", bad)
        for bad in ("", "[]", "{}", "model.json", None, held)
    ]
    others += [
        (words, json.dumps(held | changes))
        for words, changes in (
            ("expected a redistribution's to_json", {"rows": None}),
            ("expected a redistribution's to_json", {"params": [100]}),
            ("expected a redistribution's to_json", {"image_shape": [3, 0]}),
            ("expected the redistributed network to run", {"image_shape": [3, 8]}),
            ("expected a redistribution's to_json", {"shapes": {"stem.weight": [6, -3, 3, 3]}}),
            ("expected one of the paper's", {"source": "timm/nope"}),
            ("network that has stem.wait", {"shapes": {"stem.wait": [3]}}),
            ("network that has stem.weight", {"shapes": {"stem.weight": [3]}}),
            ("network that has tail.inside", {"integers": [["tail", "inside", None, 3]]}),
            ("expected 1 parameters, got", {"params": [1, 1]}),
        )
    ]
    for words, other in others:
        with pytest.raises(ValueError, match=words):
            rebuild(other, None if "nope" in str(other) else Partial())
    with pytest.raises(ValueError, match=r"network that has stem\.weight.*this is another network"):
        rebuild(text, nn.Linear(3, 2))
    with pytest.raises(TypeError, match="the original network as model, a module, got 'resnet18'"):
        rebuild(text, "resnet18")


def test_the_papers_networks_are_rebuilt_from_json_too():
    for name, template, convention in (
        ("inception", "base", "equations"),
        ("resnet50", "uniform", "published"),
    ):
        found = quietly(name, template, 0.1, convention=convention).redistribution
        assert found.filters == make_network(name, template, 0.1, convention=convention).filters
        again = fredist.Redistribution.from_json(found.to_json())
        assert again == found
        assert sum(p.numel() for p in rebuild(found.to_json()).parameters()) == found.params[1]


def test_filters_of_ones_own_have_no_template():
    for name in ("vgg19", "resnet18"):
        base = quietly(name, image_size=32).redistribution
        own = quietly(name, filters=base.filters, image_size=32).redistribution
        assert (base.template, base.width, own.template, own.width) == ("base", 1.0, None, None)
        assert fredist.Redistribution.from_json(own.to_json()) == own
        assert rebuild(own.to_json()).redistribution == own


@pytest.mark.parametrize("name", ["vgg19", "resnet50", "mobilenet", "inception"])
def test_the_papers_layers_have_all_convolutions(name):
    model = quietly(name, "uniform", 0.1)
    convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert model.redistribution.table["convs"].sum() == convs


class LastMap(nn.Module):
    """A decoder that reads the last of an encoder's maps."""

    def __init__(self, info):
        super().__init__()
        self.conv = nn.Conv2d(info["num_chs"], 4, 1)

    def forward(self, maps):
        return self.conv(maps[-1])


def test_timms_bookkeeping_is_right_afterwards():
    for name in ("mobilenetv3_small_050", "test_convnext"):  # the first has a head behind the pool
        model = quietly(name, "negative_quadratic", 0.5, image_size=64, num_classes=10).eval()
        images = torch.rand(2, 3, 64, 64)
        features = model.forward_features(images)
        assert features.shape[1] == model.num_features
        assert torch.equal(model.forward_head(features), model(images))
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (2, model.head_hidden_size)
        maps = model.forward_intermediates(images, intermediates_only=True)
        assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
        assert model.get_classifier().in_features == model.head_hidden_size
        getter = FeatureGetterNet(copy.deepcopy(model), out_indices=(1, 3))
        assert [m.shape[1] for m in getter(images)] == getter.feature_info.channels()
        model.reset_classifier(3)
        assert model(images).shape == (2, 3)
    encoder = timm.create_model("test_convnext", features_only=True)
    within = nn.Sequential(OrderedDict(encoder=encoder, last=LastMap(encoder.feature_info[-1])))
    encoder = quietly(within, "uniform", 0.5, image_size=64).encoder
    assert [m.shape[1] for m in encoder(images)] == encoder.feature_info.channels()


def test_bookkeeping_of_maps_with_channels_last_is_of_channels():
    small = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
    model = quietly("mambaout_femto", "base", 0.5, image_size=96, num_classes=10, **small).eval()
    images = torch.rand(1, 3, 96, 96)
    assert model.forward_features(images).shape[-1] == model.num_features == 24
    maps = model.forward_intermediates(images, intermediates_only=True)  # channels first
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]


class Mean(nn.Module):
    """Takes the mean over the last dimension."""

    def forward(self, x):
        return x.mean(-1)


def test_networks_of_sequences_and_volumes_are_rebuilt():
    for kind, shape in ((nn.Conv1d, (40,)), (nn.Conv3d, (6, 6, 6))):
        net = nn.Sequential(kind(3, 8, 3), nn.ReLU(), kind(8, 16, 3), nn.Flatten(2), Mean())
        net.append(nn.Linear(16, 5))
        model = quietly(net, "uniform", 0.5, image_size=shape)
        again = rebuild(model.redistribution.to_json(), net)
        assert sizes(again) == sizes(model) != sizes(net)
        assert again(torch.rand(2, 3, *shape)).shape == (2, 5)


def test_what_is_no_count_of_timms_features_stays():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
            self.num_features, self.head = [16, 32], nn.Linear(32, 5)

        def forward_features(self, x, detailed):
            return [self.first(x), self.second(self.first(x))]

        def forward(self, x):
            return self.head(self.forward_features(x, True)[-1].mean((2, 3)))

    model = quietly(Own(), "base", 0.5, image_size=16)
    assert len(model.num_features) == 2
    given = Own()
    given.num_features = 32  # as timm's, whose method is another
    assert quietly(given, "base", 0.5, image_size=16).num_features == 16


def test_a_prelu_of_channels_says_of_how_many_it_is():
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.PReLU(16), nn.Conv2d(16, 8, 3), nn.Flatten(2))
    net.extend([Mean(), nn.Linear(8, 5)])
    assert quietly(net, "base", 0.5, image_size=16)[1].num_parameters == 8


def test_an_error_of_the_redistributed_network_has_a_name_if_it_has_no_words():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)

        def forward(self, x):
            if not x.is_meta and self.conv.weight.shape[0] != 16:
                raise NotImplementedError
            return self.head(self.conv(x).mean((2, 3)))

    with pytest.raises(ValueError, match=r"network to run, got NotImplementedError: $"):
        quietly(Picky(), "base", 0.5, image_size=16)


def test_a_redistributed_network_is_exported_and_compiled():
    model = quietly("test_efficientnet", "reverse", 0.5, image_size=64, num_classes=10).eval()
    images = torch.rand(2, 3, 64, 64)
    exported = torch.export.export(model, (images,)).module()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for same in (exported, compiled):
        torch.testing.assert_close(same(images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["timm/fredist_vgg19", "resnet18", "test_efficientnet"])
def test_weights_are_spread_as_the_models_own_initialisation_has_it(name):
    """Against PyTorch's formulas, as each of the three models' constructors calls them."""
    model = quietly(name, "uniform", 0.6, image_size=64)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 500:
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel() // module.groups
            expected = math.sqrt(2 / fan_out)
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.15)
    fresh = quietly(name, "base", 1.0, image_size=64)
    for (key, one), two in zip(
        fresh.state_dict().items(), timm_original(name).values(), strict=True
    ):
        if one.is_floating_point() and one.numel() > 2000:
            assert float(one.std()) == pytest.approx(float(two.std()), rel=0.15, abs=1e-6), key


def timm_original(name):
    return timm.create_model(name.removeprefix("timm/")).state_dict()


def test_what_cannot_be_done_is_a_sentence():
    with pytest.raises(ValueError, match=r"got 'efficientnetb0' \(did you mean"):
        quietly("efficientnetb0", "uniform")
    for size in (0, -8):
        for name in ("vgg19", "resnet18"):
            with pytest.raises(
                ValueError, match=f"integer of at least 1 as image_size, got {size}"
            ):
                quietly(name, "uniform", image_size=size)
    with pytest.raises(ValueError, match="integer of at least 0 as num_classes, got -1"):
        quietly("resnet18", "uniform", num_classes=-1)
    with pytest.raises(ValueError, match="expected in_chans=3 with torchvision's networks, got 1"):
        quietly("torchvision/alexnet", "uniform", in_chans=1)
    with pytest.raises(ValueError, match="expected the name of a module with layers, got 'layer9'"):
        quietly("resnet18", "uniform", image_size=64, tie=["layer9"])
    with pytest.raises(ValueError, match=r"expected each layer in one group, got layer1\.0"):
        quietly("resnet18", "uniform", image_size=64, tie=["layer1", "layer1.0"])
    for given in ({"tie": "layer9"}, {"groups": "layer9"}, {"fixed": "layer9"}):
        with pytest.raises(ValueError, match="name of a module with layers, got 'layer9'"):
            quietly("resnet18", "uniform", image_size=64, **given)
    with pytest.raises(ValueError, match="integer of at least 1 as in_chans, got 0"):
        quietly("resnet18", "uniform", in_chans=0)
    for weights in ({"pretrained": True}, {"checkpoint_path": "here"}, {"weights": "DEFAULT"}):
        with pytest.raises(ValueError, match=f"expected no {next(iter(weights))}"):
            quietly("torchvision/alexnet", "uniform", **weights)
    for option in ("tie", "drop_rate", "colour"):
        with pytest.raises(
            TypeError, match=f"timm/fredist_vgg19. has no option '{option}'; it has"
        ):
            quietly("vgg19", "uniform", **{option: "layer1"})
    for model in ("timm/resnet18", "torchvision/resnet18", Zoo()):
        with pytest.raises(TypeError, match=r"roundto.*\(did you mean 'round_to'\?\)"):
            quietly(model, "uniform", roundto=8)
    with pytest.raises(TypeError, match="expected True or False as quiet, got 'no'"):
        redistribute("vgg19", "uniform", quiet="no")
    with pytest.raises(TypeError, match="expected options that JSON can hold"):
        quietly("resnet18", "uniform", act_layer=nn.SiLU)
    for model in (None, nn.Conv2d):
        with pytest.raises(TypeError, match="expected a network's name or a module, got"):
            quietly(model, "uniform")
    for model in (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), nn.Conv2d(3, 8, 3)):
        with pytest.raises(ValueError, match="expected a network with convolutions whose"):
            quietly(model, "uniform", image_size=8)
    with pytest.raises(
        ValueError, match=r"expected a network that torch\.export traces with images"
    ):
        quietly("torchvision/alexnet", "uniform", image_size=16)


def test_what_is_wrapped_around_a_network_is_refused_by_name():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    for wrapped, inside in (
        (nn.DataParallel(net), "DataParallel around it: give its .module"),
        (torch.optim.swa_utils.AveragedModel(net), "AveragedModel around it: give its .module"),
        (torch.compile(net), "OptimizedModule around it: give its ._orig_mod"),
        (torch.jit.trace(net, torch.rand(1, 3, 8, 8)), "what torch.jit made, a Top"),
    ):
        with pytest.raises(ValueError, match=f"expected the network itself, got {inside}"):
            quietly(wrapped, "uniform", image_size=8)
    named = nn.Sequential(OrderedDict(module=net, head=nn.Conv2d(8, 4, 3)))
    assert quietly(named, "uniform", image_size=16).redistribution.filters == (8, 8)


@pytest.mark.slow
def test_torchvisions_segmentation_networks_are_known_by_name():
    model = quietly("lraspp_mobilenet_v3_large", "uniform", like="macs", num_classes=5)
    assert model.redistribution.image_shape == (3, 520, 520)
    assert set(model.redistribution.filters) == {85}
    model = rebuild(model.redistribution.to_json())
    assert model(torch.rand(2, 3, 64, 64))["out"].shape == (2, 5, 64, 64)


class Partial(nn.Module):
    """ReXNet's sum: the first channels are added to, the others are new."""

    def __init__(self):
        super().__init__()
        self.inside, self.stem = 16, nn.Conv2d(3, 16, 3)
        self.wider, self.head = nn.Conv2d(16, 24, 3, padding=1), nn.Linear(24, 2)

    def forward(self, images):
        x = self.stem(images)
        y = self.wider(x)
        y = torch.cat([y[:, : self.inside] + x, y[:, self.inside :]], 1)
        return self.head(y.mean((2, 3)))


def test_a_slice_is_never_wider_than_what_it_is_cut_from():
    model = quietly(Partial(), "reverse", image_size=8)
    rows = model.redistribution.rows
    assert [(row.after, row.note) for row in rows] == [(24, ""), (25, "16 would not run as traced")]


class Windows(nn.Module):
    """Attention in windows, as in HaloNet: an open dimension of a reshape, and a window of 8."""

    def __init__(self):
        super().__init__()
        self.dim, self.block_size = 8, 8
        self.q, self.kv = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 32, 1)
        self.place = nn.Parameter(torch.zeros(8, 1, 1))
        self.last, self.head = nn.Conv2d(16, 24, 3, padding=1), nn.Linear(24, 2)

    def forward(self, images):
        n, _, h, w = images.shape
        blocks = h // self.block_size
        q = self.q(images).reshape(n * 2, self.dim, -1, blocks) + self.place
        kv = self.kv(images).reshape(n * 2, self.dim * 2, -1, blocks)
        k, v = kv.split([self.dim, self.dim], 1)
        x = v * (q * k).sum(1, keepdim=True).softmax(2)
        return self.head(self.last(x.reshape(n, -1, h, w)).mean((2, 3)))


def test_what_is_computed_from_an_open_dimension_drags_no_quotient_along():
    found = study(Windows(), 16).found
    assert [layer.convs for layer in found.layers] == [("q", "kv"), ("last",)]
    assert (found.frozen, found.channels.guards) == ({}, ())
    assert quietly(Windows(), "reverse", image_size=16).redistribution.filters == (24, 16)


class Branching(nn.Module):
    """Decides by a value what to run: nothing that a trace can follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, images):
        x = self.conv(images).mean((2, 3))
        return self.head(x if x.sum() > 0 else -x)


def test_a_network_that_cannot_be_traced_is_refused_in_a_sentence(capfd):
    with pytest.raises(ValueError, match=r"expected a network that torch\.export traces"):
        quietly(Branching(), "uniform", image_size=16)
    assert capfd.readouterr() == ("", "")


class Auxiliary(nn.Module):
    """In training first a classifier of what an inner layer makes, which GoogLeNet has last."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 24, 3)
        self.reduce, self.auxiliary = nn.Conv2d(16, 8, 1), nn.Linear(8 * 4, 10)
        self.classifier = nn.Linear(24, 10)

    def forward(self, images):
        inner = self.stem(images)
        scores = self.classifier(self.last(inner).mean((2, 3)))
        if not self.training:
            return scores
        maps = F.adaptive_avg_pool2d(self.reduce(inner), 2)
        return self.auxiliary(maps.flatten(1)), scores


def test_auxiliary_classifiers_are_redistributed_too():
    model = quietly(Auxiliary(), "uniform", 0.75, image_size=32)
    auxiliary, main = model.train()(torch.rand(2, 3, 32, 32))
    (main.sum() + auxiliary.sum()).backward()
    assert main.shape == auxiliary.shape == (2, 10)
    assert [row.layer for row in model.redistribution.rows] == ["stem", "last", "reduce"]
    assert model.auxiliary.in_features == model.reduce.out_channels * 4 == 12 * 4
    # What the auxiliary classifiers cost in training is no part of one image's MACs.
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.rand(1, 3, 32, 32))
    assert model.redistribution.macs[1] == counter.get_total_flops() // 2


class Exits(nn.Module):
    """In evaluation one exit or the mean of two; in training a third, as costly as one."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 24, 3)
        self.twin = nn.Conv2d(16, 24, 3)
        self.early, self.late, self.third = nn.Linear(16, 10), nn.Linear(24, 10), nn.Linear(24, 10)
        self.averaged = True

    def forward(self, images):
        inner = self.stem(images)
        late = self.late(self.last(inner).mean((2, 3)))
        if not self.training and not self.averaged:
            return late
        early = self.early(inner.mean((2, 3)))
        if not self.training:
            return (early.softmax(1) + late.softmax(1)) / 2
        return self.third(self.twin(inner).mean((2, 3))), early, late


@pytest.mark.parametrize("averaged", [True, False])
def test_macs_are_evaluations_whatever_training_returns(averaged):
    """Also where no output of training, or another one, costs as much as evaluation's."""
    given = Exits()
    given.averaged = averaged
    model = quietly(given, "reverse", 0.5, image_size=32)
    assert model.redistribution.filters == (12, 12, 8)
    sum(scores.sum() for scores in model.train()(torch.rand(2, 3, 32, 32))).backward()
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.rand(1, 3, 32, 32))
    assert model.redistribution.macs[1] == counter.get_total_flops() // 2


@pytest.mark.slow
def test_googlenets_auxiliary_classifiers_are_redistributed_too():
    model = quietly("torchvision/googlenet", "uniform", 0.2, init_weights=False)
    main, first, second = model.train()(torch.rand(2, 3, 96, 96))
    (main.sum() + first.sum() + second.sum()).backward()
    assert main.shape == first.shape == second.shape == (2, 1000)
    assert model.aux1.conv.conv.in_channels == model.inception4a.branch1.conv.out_channels * 4
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.rand(1, 3, 224, 224))
    assert model.redistribution.macs[1] == counter.get_total_flops() // 2


def test_without_a_budget_the_ratios_are_printed(capsys):
    redistribute("vgg19", "uniform", 0.5)
    assert capsys.readouterr().out.startswith("params 0.20x, MACs 1.26x, memory")
