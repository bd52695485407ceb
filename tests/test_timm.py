"""The four networks as timm's: registered, described, and with its classifier and feature calls."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

from fredist import create_model

NAMES = ("vgg19", "resnet50", "inception", "mobilenet")


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def images(size=32):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


# Nothing tells timm of fredist before one of its networks is asked for, or its registry.
@pytest.mark.parametrize("imports", ["import timm, fredist", "import fredist, timm"])
def test_timm_knows_the_four(imports):
    code = f"""{imports}
print(timm.list_models("fredist_*"))
fredist.create_model("mobilenet", width=0.1)
print(timm.list_models("fredist_*"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    known = f"{sorted(f'fredist_{name}' for name in NAMES)}\n"
    before = known if imports == "import timm, fredist" else "[]\n"
    assert (done.stdout, done.stderr) == (before + known, "")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg19", {"head": "flatten7x7"}),
        ("vgg19", {"convention": "published", "template": "quadratic"}),
        ("resnet50", {"round_to": 8}),
        ("inception", {"keep_total": True}),
        ("mobilenet", {"vertex": "middle", "template": "quadratic", "in_chans": 1}),
    ],
)
def test_timm_builds_the_same(name, options):
    options = {"template": "uniform", "width": 0.25, "num_classes": 20, **options}
    with torch.device("meta"):
        theirs = timm.create_model(f"fredist_{name}", **options)
        ours = create_model(name, **options)
    assert shapes(theirs) == shapes(ours)
    assert theirs.network == ours.network
    assert (theirs.template, theirs.width) == (options["template"], 0.25)
    config = timm.get_pretrained_cfg(f"fredist_{name}")
    assert (config.num_classes, config.input_size) == (10, (3, 32, 32))
    assert ours.get_submodule(config.first_conv).in_channels == options.get("in_chans", 3)
    assert ours.get_submodule(config.classifier) is ours.get_classifier()
    assert ours.default_cfg["architecture"] == f"fredist_{name}"
    assert ours.default_cfg == theirs.default_cfg


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("vgg19", {"head": "flatten7x7"})]
)
def test_a_classifier_can_be_read_replaced_and_left_out(name, options):
    model = create_model(name, "negative_quadratic", 0.05, 20, **options).eval()
    features = model.forward_features(images())
    pooled = model.forward_head(features, pre_logits=True)
    assert features.shape[1] == model.num_features
    assert pooled.shape == (2, model.head_hidden_size)
    assert model.head_hidden_size == (49 if options else 1) * model.num_features
    classifier = model.get_classifier()
    assert (classifier.in_features, classifier.out_features) == (model.head_hidden_size, 20)
    assert model(images()).equal(classifier(pooled))
    model.reset_classifier(5)
    assert (model.num_classes, model.get_classifier().out_features) == (5, 5)
    assert model(images()).equal(model.get_classifier()(pooled))
    model.reset_classifier(0)
    assert model(images()).equal(pooled)
    without = create_model(name, "negative_quadratic", 0.05, 0, **options)
    assert not any(isinstance(module, nn.Linear) for module in without.modules())
    assert without.eval()(images()).shape == pooled.shape


@pytest.mark.parametrize("name", NAMES)
def test_pooling_can_be_replaced(name):
    model = create_model(name, "reverse", 0.05).half().eval()
    model.reset_classifier(5, "catavgmax")  # twice as many features
    assert model.get_classifier().weight.dtype == torch.half
    assert model.float()(images()).shape == (2, 5)
    model.reset_classifier(6)
    assert model(images()).shape == (2, 6)


@pytest.mark.parametrize("name", NAMES)
def test_feature_maps_are_as_described(name):
    for subset in (None, (0, 2), (1,)):
        options = {"out_indices": subset} if subset else {}
        model = timm.create_model(f"fredist_{name}", width=0.1, features_only=True, **options)
        info = model.feature_info
        for size in (32, 64):
            maps = model.eval()(images(size))
            assert [m.shape[1] for m in maps] == info.channels()
            assert [m.shape[2] for m in maps] == [size // r for r in info.reduction()]
            assert len(maps) == len(subset or range(3 if name == "inception" else 5))
        assert info.reduction() == sorted(info.reduction())
    model = create_model(name, "uniform", 0.1).eval()
    final, maps = model.forward_intermediates(images())
    assert final.equal(model.forward_features(images()))
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    assert [32 // m.shape[2] for m in maps] == [info["reduction"] for info in model.feature_info]


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_makes_a_trip(name, tmp_path):
    first, second = (create_model(name, "reverse", 0.05).train() for _ in range(2))
    first(images())  # running statistics of its own
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert first.eval()(images()).equal(second.eval()(images()))


def test_there_are_no_pretrained_weights():
    message = "fredist_vgg19 has no pretrained weights: call with pretrained=False"
    with pytest.raises(ValueError, match=message):
        timm.create_model("fredist_vgg19", pretrained=True)
