"""The four networks as timm's: registered, described, and with its classifier and feature calls."""

import subprocess
import sys

import pytest
import timm
import torch
from timm.layers import create_feature_extractor
from timm.models import group_parameters, resolve_model_input_args, save_for_hf
from torch import nn

from fredist import create_model

NAMES = ("vgg19", "resnet50", "inception", "mobilenet")
DILATED = ("resnet50", "mobilenet")
HEADS = [*((name, {}) for name in NAMES), ("vgg19", {"head": "flatten7x7"})]


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def images(size=32):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(name, **options):
    """Return timm's, with weights that a seed decides or that were asked for."""
    torch.manual_seed(1)
    model = timm.create_model(f"fredist_{name}", **{"width": 0.05, **options}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not options.get("pretrained"):
            nn.init.constant_(module.weight, 2.4)  # untrained maps fade away: to 1e-13 at the end
    return model


def close(first, second):
    """Compare by the scale of what is there, of which there must be some."""
    assert second.isfinite().all()
    scale = second.abs().max().item()
    assert scale > 1e-3
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4 * scale)


def differing(first, second):
    """Return the names of what differs between two models' weights, which are of the same shape."""
    others = second.state_dict()
    return [name for name, value in first.state_dict().items() if not value.equal(others[name])]


# Nothing tells timm of fredist before one of its networks is asked for, or its registry.
@pytest.mark.parametrize(
    "imports",
    ["import timm, fredist", pytest.param("import fredist, timm", marks=pytest.mark.slow)],
)
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


@pytest.mark.parametrize(("name", "options"), HEADS)
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
    message = "fredist_vgg19 has no pretrained weights: call with pretrained=False, or name a file"
    for overlay in (None, {"num_classes": 5}):
        with pytest.raises(ValueError, match=message):
            build("vgg19", pretrained=True, pretrained_cfg_overlay=overlay)


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_dropout_drops_in_training_alone(name, options):
    model = build(name, drop_rate=0.5, **options)
    features = 1 + torch.rand(8, model.num_features, 2, 2)
    for classes in (10, 5):
        model.reset_classifier(classes)
        kept = model.eval().forward_head(features, pre_logits=True)
        assert kept.gt(0).all()
        assert model(images()).equal(model(images()))
        dropped = model.train().forward_head(features, pre_logits=True)
        assert 0.2 < dropped.eq(0).float().mean() < 0.8
        assert dropped[dropped > 0].equal(2 * kept[dropped > 0])
        assert not model.forward_head(features).equal(model.forward_head(features))
    assert model.drop_rate == 0.5


def test_resnets_blocks_can_be_dropped():
    model = build("resnet50", drop_path_rate=0.9, drop_block_rate=0.5)
    assert model(images()).equal(build("resnet50")(images()))
    assert not model.train()(images()).equal(model(images()))
    for name in ("vgg19", "inception", "mobilenet"):  # nor do these have an effect in timm's
        with pytest.raises(TypeError, match=f"{name} has no option 'drop_path_rate'"):
            build(name, drop_path_rate=0.1)


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_pooling_is_what_was_asked_for(name, options):
    model = build(name, num_classes=0, global_pool="", **options)
    unpooled = model(images())
    assert unpooled.ndim == 4
    assert options or unpooled.equal(model.forward_features(images()))
    average, most = unpooled.mean((2, 3)), unpooled.amax((2, 3))
    expected = {"avg": average, "max": most, "avgmax": (average + most) / 2}
    expected["catavgmax"] = torch.cat([average, most], 1)
    for pooling, pooled in expected.items():
        model = build(name, num_classes=0, global_pool=pooling, **options)
        close(model(images()), pooled)
        assert model.head_hidden_size == pooled.shape[1]
        classifier = build(name, num_classes=7, global_pool=pooling, **options).get_classifier()
        assert classifier.in_features == pooled.shape[1]
        model.reset_classifier(0, "")
        assert model(images()).equal(unpooled)
        model.reset_classifier(3, pooling)
        close(model(images()), model.get_classifier()(pooled))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), HEADS)
def test_every_weight_has_the_type_and_place_asked_for(name, options, dtype):
    model = build(name, dtype=dtype, **options)
    kinds = {value.dtype for value in model.state_dict().values()}
    assert kinds == {dtype, torch.int64}  # batch norm counts its batches
    logits = model(images().to(dtype))
    assert (logits.dtype, logits.shape) == (dtype, (2, 10))
    assert logits.isfinite().all()
    model = build(name, device="meta", dtype=dtype, **options)
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert shapes(model) == shapes(build(name, **options))


# Without strides, what is dilated computes between the pixels of the network with strides.
@pytest.mark.parametrize("template", ["base", "uniform"])
@pytest.mark.parametrize(("name", "least", "own"), [("resnet50", 2, 8), ("mobilenet", 1, 16)])
def test_strides_become_dilations(name, least, own, template):
    plain = build(name, template=template)
    expected = plain.forward_features(images(64))
    for stride in (1, 2, 4, 8, 16, 32):
        if stride < least:
            with pytest.raises(ValueError, match="one of 2, 4, 8, 16, 32 as output_stride of ResN"):
                build(name, output_stride=stride)
            continue
        model = build(name, template=template, output_stride=stride)
        model.load_state_dict(plain.state_dict())
        maps = model.forward_features(images(64))
        assert maps.shape[-1] == 64 // min(stride, own)
        step = max(1, own // stride)
        close(maps[..., ::step, ::step], expected)
        parts = build(name, output_stride=stride, features_only=True)
        sizes = [part.shape[-1] for part in parts(images(64))]
        assert sizes == [64 // reduction for reduction in parts.feature_info.reduction()]


def test_max_pools_keep_their_strides():
    for name, choices in (("vgg19", "16, 32"), ("inception", "4, 8, 16, 32")):
        model = build(name, output_stride=32)
        assert model(images()).equal(build(name)(images()))
        with pytest.raises(ValueError, match=f"one of {choices} as output_stride of .* got 2$"):
            build(name, output_stride=2)
    with pytest.raises(TypeError, match=r"expected an integer .* output_stride, got 8"):
        build("resnet50", output_stride=8.5)


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_describes_the_network(name):
    model = build(name)
    config = model.default_cfg
    maps = model.forward_features(torch.rand(2, *config["input_size"]))
    assert maps.shape[-2:] == config["pool_size"]
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert model.get_submodule(config["first_conv"]) is convs[0]
    assert model.get_submodule(config["classifier"]) is model.get_classifier()
    model.reset_classifier(0)
    assert f"{config['classifier']}.weight" not in model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_loaded_timms_ways(name, tmp_path):
    first, file = create_model(name, width=0.05, num_classes=20), tmp_path / "weights.pth"
    first.train()(images())  # running statistics of its own
    nn.init.ones_(first.get_classifier().bias)
    torch.save(first.state_dict(), file)
    plain = {"width": 0.05, "num_classes": 20}
    own = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file), "num_classes": 20}}
    for create in (create_model, lambda name, **kw: timm.create_model(f"fredist_{name}", **kw)):
        assert differing(first, create(name, **plain))
        assert not differing(first, create(name, **plain, checkpoint_path=file))
        assert not differing(first, create(name, **plain, **own))
    assert not differing(first, build(name, **own))  # the classes are the weights' own
    again = build(name, num_classes=20, pretrained_cfg_overlay={"state_dict": first.state_dict()})
    assert differing(first, again)  # pretrained=False
    # Another classifier and another number of colours, of which the first layer's are added.
    config = first.default_cfg
    classifier = [f"{config['classifier']}.{kind}" for kind in ("weight", "bias")]
    own["pretrained_cfg_overlay"]["num_classes"] = -1  # as timm's scripts ask for a new classifier
    assert differing(first, build(name, num_classes=20, **own)) == classifier
    assert build(name, **own).num_classes == 10
    own["pretrained_cfg_overlay"]["num_classes"] = 20
    grey = build(name, num_classes=5, in_chans=1, **own)
    weight, loaded = f"{config['first_conv']}.weight", grey.state_dict()
    close(loaded[weight], first.state_dict()[weight].sum(1, keepdim=True))
    kept = loaded.keys() - {weight, *classifier}
    assert all(loaded[key].equal(first.state_dict()[key]) for key in kept)
    colour = {"pretrained_cfg_overlay": {"input_size": (1, 32, 32)}}
    assert build(name, **colour).get_submodule(config["first_conv"]).in_channels == 1
    maps = build(name, features_only=True, **own)
    assert maps(images())[-1].equal(first.eval().forward_features(images()))


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_a_folder_for_the_hub_makes_a_trip(name, options, tmp_path):
    options = {"template": "uniform", "width": 0.05, "num_classes": 20, "in_chans": 1, **options}
    sizes = create_model(name, **options).filters
    filters = {"filters": sizes, "head": options.get("head"), "num_classes": 3}
    for i, (create, asked) in enumerate(
        [
            (create_model, options),
            (lambda name, **kw: timm.create_model(f"fredist_{name}", **kw), options),
            (create_model, {**filters, "output_stride": 2 if name in DILATED else 32}),
        ]
    ):
        first, folder = create(name, **asked).eval(), tmp_path / str(i)
        first.reset_classifier(4, "max")
        save_for_hf(first, folder)
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert (again.network.filters, again.num_classes) == (first.filters, 4)
        assert (again.template, again.width) == (first.template, first.width)
        assert not differing(first, again)
        grey = images()[:, : first.network.in_chans]
        assert again(grey).equal(first(grey))
        more = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=6)
        config = first.default_cfg["classifier"]
        assert more.get_submodule(config).out_features == 6


@pytest.mark.parametrize("name", NAMES)
def test_a_scripts_arguments_are_taken(name):
    unset = ("drop_path_rate", "drop_block_rate", "bn_momentum", "bn_eps", "scriptable", "img_size")
    arguments = {"pretrained": False, "drop_rate": 0.0, "num_classes": 7, "global_pool": "avg"}
    arguments |= {"checkpoint_path": "", "cache_dir": None} | dict.fromkeys(unset)
    asked = {"input_size": (1, 64, 64), "img_size": None}
    resolved = resolve_model_input_args(f"fredist_{name}", asked, width=0.05, **arguments)
    model = timm.create_model(**resolved)
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("kind", ["hook", "getter", "fx", "list", "dict"])
@pytest.mark.parametrize(("name", "options"), HEADS)
def test_every_way_to_feature_maps_gives_the_same(name, options, kind):
    expected = build(name, **options).forward_intermediates(images(), intermediates_only=True)
    for indices in (None, (0, 2), (1,), (-1,), 2):
        own = {} if indices is None else {"out_indices": indices}
        model = build(name, features_only=True, feature_cls=kind, **own, **options)
        if isinstance(indices, int):
            kept = expected[-indices:]
        else:
            kept = [expected[i] for i in indices] if indices else expected
        maps = model(images())
        maps = list(maps.values()) if kind == "dict" else maps
        assert len(maps) == len(kept)
        assert all(map.equal(other) for map, other in zip(maps, kept, strict=True))
        assert model.feature_info.channels() == [map.shape[1] for map in kept]


@pytest.mark.parametrize("name", NAMES)
def test_pruned_networks_give_the_same_maps(name):
    model = build(name)
    final, expected = model.forward_intermediates(images())
    last = len(expected) - 1
    for indices in ([0], [0, 1], 1, [-1], [last - 1]):
        model = build(name)
        taken = model.prune_intermediate_layers(indices)
        assert taken == ([last] if indices in (1, [-1]) else indices)
        pruned = model.forward_intermediates(images(), taken, intermediates_only=True)
        early = build(name).forward_intermediates(images(), taken, stop_early=True)
        assert all(a.equal(expected[i]) for a, i in zip(pruned, taken, strict=True))
        assert all(a.equal(expected[i]) for a, i in zip(early[1], taken, strict=True))
        assert model(images()).equal(expected[max(taken)] if max(taken) < last else final)
        assert (model.num_classes, model.num_features) == (0, model(images()).shape[1])
        names = {key for key, _ in model.named_parameters()}
        assert not any(key.startswith(model.default_cfg["classifier"]) for key in names)
        model.set_grad_checkpointing()
        model.train()(images()).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("name", "options"), HEADS)
def test_checkpointing_computes_twice_and_gives_the_same_gradients(name, options):
    gradients, calls = [], []
    for enabled in (False, True, False):
        model = build(name, **options).double().train()
        model.set_grad_checkpointing()
        model.set_grad_checkpointing(enabled)
        convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        done = []
        convs[-1].register_forward_hook(lambda *_, done=done: done.append(1))
        model(images().double()).square().sum().mul(1e6).backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
        calls.append(len(done))
    assert calls == [1, 2, 1]
    for key, gradient in gradients[0].items():  # a bias before batch norm has none but by rounding
        if name == "inception" and key.endswith("conv.bias"):
            assert gradients[1][key].shape == gradient.shape
        else:
            close(gradients[1][key], gradient)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_groups_of_parameters_follow_the_layers(name, coarse):
    model = build(name)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    listed = [key for group in sorted(groups) for key in groups[group]]
    assert sorted(listed) == sorted(key for key, _ in model.named_parameters())
    assert f"{model.default_cfg['first_conv']}.weight" in groups[min(groups)]
    assert f"{model.default_cfg['classifier']}.weight" in groups[max(groups)]
    layers = [key for key, _ in model.named_parameters()]
    assert listed == layers
    assert len(groups) > 5


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(("name", "options"), HEADS)
def test_scripted_and_traced_networks_compute_the_same(name, options):
    model = build(name, **options)
    traced = create_feature_extractor(model, [model.default_cfg["classifier"]])
    for size in (16, 33):
        (logits,) = traced(images(size)).values()
        close(logits, model(images(size)))
    scripted = torch.jit.script(model)
    for size in (16, 33):
        close(scripted(images(size)), model(images(size)))
    close(scripted.train()(images()), model.train()(images()))
    if name == "vgg19":
        with pytest.raises(torch.jit.Error, match=r"at least 16x16 .* got 8x8"):
            scripted(images(8))
