"""Fresh values of a redistributed network: by its own initialisation, and nothing trained."""

import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

import fredist
from fredist.coupled import redistribute, sources


def redistributed(model, template="base", width=1.0, **options):
    return redistribute(model, template, width, **{"image_size": 16, "quiet": True} | options)


def head(channels, classes=40):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def spread(tensor):
    return float(tensor.detach().square().mean().sqrt())


class Tied(nn.Module):
    """Two convolutions with one weight, and a bias each."""

    def __init__(self):
        super().__init__()
        self.stem, self.one = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, padding=1)
        self.two, self.head = nn.Conv2d(64, 64, 3, padding=1), head(64)
        self.two.weight = self.one.weight

    def forward(self, images):
        return self.head(self.two(self.one(self.stem(images))))


class Own(nn.Module):
    """What PyTorch's modules do not know: He's weights, zeros in biases and norm, a raw vector."""

    def __init__(self, values=None):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3)
        self.norm, self.head = nn.BatchNorm2d(64), head(64)
        self.gain = nn.Parameter(torch.ones(64, 1, 1) if values is None else values)
        for conv in (self.stem, self.conv):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.norm.weight)

    def forward(self, images):
        return self.head(self.gain.view(-1, 1, 1) * self.norm(self.conv(self.stem(images))))


class Attending(nn.Module):
    """PyTorch's attention and one of timm's kind, whose scale is made of a number of channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.attention = (
            nn.Conv2d(3, 64, 3),
            nn.MultiheadAttention(64, 4, batch_first=True),
        )
        self.channels, self.scale, self.head = 64, 64**-0.5, nn.Linear(64, 40)

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        tokens = self.scale * self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.mean(1)[:, : self.channels])


def weight_normed():
    convs = (nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    return nn.Sequential(*map(parametrizations.weight_norm, convs), head(64))


def plain():
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 3, groups=4), head(128))


@pytest.mark.parametrize("make", [plain, Tied, weight_normed])
@pytest.mark.parametrize("width", [0.5, 2.0])
def test_weights_and_biases_follow_pytorchs_law_for_the_new_fans(make, width):
    """Also where a bias's own shape stays, or its weight is another module's or computed."""
    torch.manual_seed(0)
    model, checked = redistributed(make(), width=width), 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            expected = 1 / math.sqrt(3 * module.weight[0].numel())
            assert spread(module.weight) == pytest.approx(expected, rel=0.1)
            assert spread(module.bias) == pytest.approx(expected, rel=0.35)
            checked += 1
    assert checked >= 3


def test_a_recurrent_layers_values_follow_its_hidden_size():
    """Not what it reads, though they are as if they did where that is three times as much."""

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.lstm = nn.Conv2d(3, 96, 3), nn.LSTM(96, 32, batch_first=True)

        def forward(self, images):
            return self.lstm(self.stem(images).mean(3).mT)[0].mean(1)

    lstm = redistributed(Reading(), width=2).lstm
    assert (lstm.input_size, lstm.hidden_size) == (192, 32)
    for value in lstm.parameters():
        rel = 0.1 if value.dim() > 1 else 0.35
        assert spread(value) == pytest.approx(1 / math.sqrt(3 * 32), rel=rel)


def test_spectral_norms_are_those_of_the_new_weights():
    norm = parametrizations.spectral_norm
    given = nn.Sequential(norm(nn.Conv2d(3, 32, 3)), norm(nn.Conv2d(32, 16, 3)), head(16))
    for width, filters in ((1.0, 32), (0.5, 16)):
        model = redistributed(given.eval(), width=width)
        assert model[1].parametrizations.weight[0]._v.shape == (9 * filters,)
        for conv in model[:2]:
            largest = torch.linalg.svdvals(conv.weight.detach().flatten(1))[0]
            assert float(largest) == pytest.approx(1, abs=0.1)
            assert not any(module.training for module in conv.modules())
    by_hooks = nn.Sequential(torch.nn.utils.spectral_norm(nn.Conv2d(3, 32, 3)), head(32))
    with pytest.raises(ValueError, match=r"0\.weight_u with .*\.parametrizations\."):
        redistributed(by_hooks, width=0.5)


def test_a_classifiers_few_biases_follow_too_by_name():
    fc = redistributed("torchvision/resnet18", width=0.25, num_classes=10).fc
    assert fc.bias.detach().abs().max() > 0.05  # within 0.044 before: 512 features then, now 128
    assert fc.bias.detach().abs().max() <= 1 / math.sqrt(fc.in_features)


def test_biases_that_are_set_stay_whatever_their_weight_reads():
    """As a spatial transformer's identity, or the odds that a detector begins with."""

    class Heads(nn.ModuleList):
        def forward(self, features):
            return [head(features) for head in self]

    biases = ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.01,) * 40, (-4.595,))
    heads = Heads(nn.Linear(64, len(values)) for values in biases)
    heads += [nn.Linear(64, 1), nn.Linear(64, 40)]
    for own, values in zip(heads, biases, strict=False):
        own.bias = nn.Parameter(torch.tensor(values))
    model = redistributed(nn.Sequential(nn.Conv2d(3, 64, 3), *head(64)[:2], heads), width=0.25)
    for own, values in zip(model[-1], biases, strict=False):
        assert own.bias.tolist() == pytest.approx(values)
    # But one number may be PyTorch's own.
    single, follows = (own.bias.detach() for own in model[-1][3:])
    assert 0.125 < follows.abs().max() <= 0.25
    assert 0 < single.abs() <= 0.25


@pytest.mark.parametrize("width", [0.75, 1.0, 2.0])
def test_what_is_set_stays_so_in_another_shape(width):
    """A forget gate's ones, biases of a part of the filters, identities, also in groups."""

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.grouped = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, groups=4)
            self.linear, self.lstm = nn.Linear(32, 32), nn.LSTM(32, 64, batch_first=True)
            nn.init.dirac_(self.grouped.weight, 4)
            nn.init.eye_(self.linear.weight)
            for own, ones in ((self.stem.bias, [0, 8]), (self.lstm.bias_ih_l0, [64, 128])):
                nn.init.zeros_(own)
                nn.init.ones_(own[slice(*ones)])

        def forward(self, images):
            return self.lstm(self.linear(self.grouped(self.stem(images)).mean(3).mT))[0].mean(1)

    model = redistributed(Reading(), width=width)
    hidden, first = model.lstm.hidden_size, len(model.stem.bias) // 4
    assert model.stem.bias.nonzero().flatten().tolist() == list(range(first))
    assert model.lstm.bias_ih_l0.nonzero().flatten().tolist() == list(range(hidden, 2 * hidden))
    weight = model.grouped.weight
    assert len(weight) == 32 * width
    assert torch.equal(weight, nn.init.dirac_(torch.empty_like(weight), 4))
    assert torch.equal(model.linear.weight, torch.eye(*model.linear.weight.shape))


def test_values_of_depthwise_convolutions_with_multipliers_follow_their_groups():
    """MobileNet's law: of the fans out of each group."""
    wide = nn.Conv2d(32, 64, 3, groups=32), nn.Conv2d(64, 256, 3, groups=64)
    given = nn.Sequential(nn.Conv2d(3, 32, 3), *wide, nn.Conv2d(256, 48, 3, groups=4), head(48))

    def expected(conv):
        return math.sqrt(2 * conv.groups / (9 * conv.out_channels))

    for conv in given[:4]:
        nn.init.normal_(conv.weight, std=expected(conv))
        nn.init.zeros_(conv.bias)
    for conv in redistributed(given, width=0.5)[:4]:
        assert spread(conv.weight) == pytest.approx(expected(conv), rel=0.15)


def test_a_module_given_keeps_its_own_initialisation():
    for width in (0.5, 1.0):
        given = Own()
        model = redistributed(given, width=width)
        assert spread(model.conv.weight) == pytest.approx(
            math.sqrt(2 / model.conv.weight[0].numel()), rel=0.1
        )
        assert not any(t.any() for t in (model.conv.bias, model.norm.weight))
        assert model.gain.eq(1).all()
        assert not torch.equal(model.stem.weight[:8], given.stem.weight[:8])  # drawn anew
    given = Own()
    nn.init.normal_(given.conv.bias, std=0.018)  # whose largest lie beyond PyTorch's bound of 0.042
    model = redistributed(given)
    assert spread(model.conv.bias) == pytest.approx(0.018, rel=0.4)
    assert spread(model.conv.weight) == pytest.approx(spread(given.conv.weight), rel=0.1)
    given = Own(0.3 * torch.randn(64, 1, 1))
    gain = redistributed(given).gain
    assert not torch.equal(gain, given.gain)
    assert spread(gain) == pytest.approx(0.3, rel=0.4)
    given = torchvision.models.resnet18(zero_init_residual=True)
    model = redistributed(given)
    assert not model.layer1[0].bn2.weight.any()
    for (name, one), two in zip(model.named_parameters(), given.parameters(), strict=True):
        if one.numel() > 500:
            assert spread(one) == pytest.approx(spread(two), rel=0.1), name


def test_heads_may_have_another_law_than_the_backbone():
    sizes = ((3, 32), (32, 64), (64, 128))
    given = nn.Sequential(*(nn.Conv2d(*size, 3, padding=1) for size in (*sizes, *[(128, 128)] * 4)))
    for place, conv in enumerate(given):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        if place > 2:
            nn.init.normal_(conv.weight, std=0.01)
    for place, conv in enumerate(redistributed(nn.Sequential(*given, head(128)), width=2)[:7]):
        expected = math.sqrt(2 / 9 / conv.out_channels) if place < 3 else 0.01
        assert spread(conv.weight) == pytest.approx(expected, rel=0.1)


def test_weight_norms_follow_their_law():
    given = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 32, 3), nn.Conv2d(32, 128, 3))
    for conv in given:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        parametrizations.weight_norm(conv)
    for conv in redistributed(nn.Sequential(*given, head(128)), width=0.5)[:3]:
        expected = math.sqrt(2 / 9 / conv.out_channels)
        assert spread(conv.weight) == pytest.approx(expected, rel=0.15)
        inside = conv.parametrizations.weight
        assert torch.allclose(inside.original0, torch.norm_except_dim(inside.original1))


@pytest.mark.parametrize("width", [1.0, 2.0])
def test_structure_is_drawn_anew(width):
    """Orthogonal rows, rows that are equal for all filters or for each four, complex numbers."""

    class Structured(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.up, self.last = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), head(16)
            nn.init.orthogonal_(self.stem.weight, 2)
            rows = nn.init.kaiming_normal_(torch.empty(16, 32, 3, 3))
            self.up.weight.data = rows.repeat_interleave(4, 0)
            self.times = nn.Parameter(torch.arange(1.0, 9).repeat(32, 1))
            self.turn = nn.Parameter(torch.rand(16, 9, dtype=torch.cfloat))

        def forward(self, images):
            maps = self.stem(images) * self.times.sum(1).view(1, -1, 1, 1)
            maps = nn.functional.pixel_shuffle(self.up(maps), 2)
            return self.last(maps * self.turn.sum(1).abs().view(1, -1, 1, 1))

    given = Structured()
    model = redistributed(given, width=width)
    matrix = model.stem.weight.detach().flatten(1)
    matrix = matrix if len(matrix) < matrix.shape[1] else matrix.T
    assert torch.allclose(matrix @ matrix.T, 4 * torch.eye(len(matrix)), atol=1e-4)
    assert torch.equal(model.up.weight, model.up.weight[::4].repeat_interleave(4, 0))
    assert spread(model.up.weight) == pytest.approx(math.sqrt(2 / model.up.weight[0].numel()), 0.1)
    assert torch.equal(model.times, model.times[:1].expand_as(model.times))
    assert set(model.times[0].tolist()) == {*range(1, 9)}
    assert (len(model.times), len(model.turn)) == (32 * width, 16 * width)
    assert model.turn.is_complex()
    assert not torch.equal(model.turn[:16, :9], given.turn)


def test_nothing_trained_is_passed_off_as_fresh():
    given = Own(torch.linspace(-3, 5, 64))
    nn.init.uniform_(given.norm.weight)
    nn.init.normal_(given.conv.weight, std=9.0)
    given(torch.rand(8, 3, 16, 16))
    with pytest.warns(
        UserWarning, match=r"looks trained: .*reset_parameters.* Nothing initialises gain: "
    ) as warned:
        model = redistributed(given)
    assert warned[0].filename == __file__
    assert torch.equal(model.gain, given.gain)
    assert model.norm.weight.eq(1).all()
    assert not model.norm.running_mean.any()
    assert spread(model.conv.weight) == pytest.approx(1 / math.sqrt(3 * 64 * 9), rel=0.1)
    given = weight_normed()
    with torch.no_grad():
        given[1].weight = 50 * given[1].weight
        given[1].bias += 1
        attending = Attending()
        attending.attention.in_proj_weight.fill_(7.0)
    with pytest.warns(UserWarning, match="looks trained: .* or by name$") as warned:
        model, attending = redistributed(given), redistributed(attending)
    assert len(warned) == 2
    assert spread(model[1].weight) == pytest.approx(1 / math.sqrt(3 * 64 * 9), rel=0.1)
    assert attending.attention.in_proj_weight.abs().max() < 1


def test_only_what_needs_no_arguments_initialises():
    class Applied(Own):
        def init_weights(self, module):
            raise AssertionError

    class Called(Own):
        def init_weights(self):
            nn.init.eye_(self.head[-1].weight)

    assert redistributed(Applied()).conv.bias.eq(0).all()
    assert redistributed(Called()).head[-1].weight.std() > 0
    trained = Called()
    nn.init.uniform_(trained.norm.weight)
    with pytest.warns(UserWarning, match="looks trained"):
        assert torch.equal(redistributed(trained).head[-1].weight, torch.eye(40, 64))


def test_fixed_filters_stay_fixed():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16, bias=False), head(16)
    )
    blur = torch.tensor([1.0, 2.0, 1.0])
    model[1].weight = nn.Parameter((blur[:, None] * blur / 16).expand(16, 1, 3, 3).clone(), False)
    for width in (1.0, 2.0):
        new = redistributed(model, width=width)[1].weight
        assert not new.requires_grad
        assert torch.equal(new, model[1].weight[:1].expand_as(new))
    nn.init.normal_(model[1].weight)
    assert torch.equal(redistributed(model)[1].weight, model[1].weight)
    with pytest.raises(ValueError, match=r"frozen parameter 1\.weight .*requires_grad_\(True\)"):
        redistributed(model, width=2.0)


def test_the_check_leaves_nothing_behind():
    class Counting(Own):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(64, 1, 1))

        def forward(self, images):
            self.calls += 1
            return super().forward(images) + self.calls.mean()

    given = Counting()
    given.norm.eval()
    given.stem.weight._no_weight_decay = given.norm.bias._no_weight_decay = True
    for width in (1.0, 2.0):
        model = redistributed(given, width=width)
        assert model.training
        assert not model.norm.training
        assert not model.calls.any()
        assert model.stem.weight._no_weight_decay
        assert model.norm.bias._no_weight_decay


def test_modules_agree_with_their_new_sizes():
    model = redistributed(Attending(), width=0.25)
    new, attention = nn.MultiheadAttention(16, 4), model.attention
    for name in ("embed_dim", "kdim", "vdim", "head_dim"):
        assert getattr(attention, name) == getattr(new, name), name
    assert spread(attention.in_proj_weight) == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert (model.channels, model.scale) == (16, 0.25)
    stem = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16, affine=False)
    second = nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32, affine=False)
    model = redistributed(nn.Sequential(*stem, *second, head(32)), width=2.0)
    assert (model[1].num_channels, model[3].num_features) == (32, 64)


def test_the_papers_networks_through_timm_say_nothing_stale():
    new = redistributed(fredist.create_model("vgg19"), "uniform", 0.5, image_size=32)
    for name in ("network", "filters", "template", "width", "convention", "_model_args"):
        assert not hasattr(new, name), name
    assert new.redistribution.filters == (172,) * 16
    new = redistributed("vgg19", "uniform", 0.5)
    assert new.filters == new.network.filters == (172,) * 16


def test_what_cannot_be_built_is_a_sentence():
    for library in ("timm", "torchvision"):
        assert sources.create(library, "resnet18", pretrained=False).conv1.out_channels == 64
    with pytest.raises(ValueError, match="expected no pretrained"):
        redistributed("resnet18", pretrained=True)
    with pytest.raises(ValueError, match="expected a network with weights, got ReLU"):
        redistributed(nn.ReLU())
    with pytest.raises(ValueError, match=r"expected tensors that fit into memory, got \S+ with"):
        redistributed(plain(), width=1e10)
