"""What a trace sees of any forward pass: branches, integers, costs, widths, and what it refuses."""

import copy
import math
import operator
import threading
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import DeformConv2d

from fredist import apply_template, redistribute
from fredist.coupled import study

quietly = partial(redistribute, quiet=True, image_size=16)


class Net(nn.Module):
    """A network whose forward pass is a function of itself and the images, with what it holds."""

    def __init__(self, run, **held):
        super().__init__()
        self.run = run
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, images):
        return self.run(self, images)


def conv(inputs, filters, size=3, **options):
    return nn.Conv2d(inputs, filters, size, padding=size // 2, **options)


def head(inputs):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def flops(model):
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.rand(1, 3, 16, 16))
    return counter.get_total_flops() // 2


def pair(size):
    """Return what much code makes of a number or a pair, by asking which it is."""
    return (size, size) if isinstance(size, int) else size


class Block(nn.Module):
    """A residual block that decides by sizes whether it is one, and remembers what it did."""

    def __init__(self, inputs, filters, by):
        super().__init__()
        self.inputs, self.filters, self.by = inputs, filters, by
        self.conv = conv(inputs, filters)

    def forward(self, x):
        y = self.conv(x)
        same = {
            "integers": lambda: self.inputs == self.filters,
            "shapes": lambda: x.shape == y.shape,
            "channels": lambda: not operator.ne(x.shape[1], y.shape[1]),
            "remainder": lambda: x.shape[1] % 16 == 0,
        }
        self.added = bool(same[self.by]())
        return x + y if self.added and x.shape == y.shape else y


@pytest.mark.parametrize("by", ["integers", "shapes", "channels", "remainder"])
def test_the_way_through_a_network_stays_the_one_it_took(by):
    """Though under uniform every layer has as many filters: 19, and 32 at that width."""
    net = nn.Sequential(conv(3, 8), Block(8, 16, by), Block(16, 32, by), head(32))
    net(torch.rand(1, 3, 16, 16))
    model = quietly(net, "uniform", 12 / 7 if by == "remainder" else 1.0)
    assert [block.added for block in model[1:3]] == [block.added for block in net[1:3]]
    assert {row.after for row in model.redistribution.rows} <= {19, 20, 31, 32, 33}


@pytest.mark.parametrize(
    "use",
    [
        lambda net, x: F.interpolate(x, size=(net.size, net.size)),
        lambda net, x: F.adaptive_avg_pool2d(x, net.size),
        lambda net, x: x * net.size,
    ],
)
def test_an_integer_that_is_no_tensors_channels_stays(use):
    net = Net(lambda net, x: net.head(use(net, net.conv(x))), size=16, conv=conv(3, 16))
    net.head = nn.Sequential(conv(16, 24), head(24))
    for inside in (head(16), net.head):
        net.head = inside
        model = quietly(net, "base", 0.5)
        assert (model.size, model.conv.out_channels) == (16, 8)


def test_an_integer_that_only_multiplies_channels_stays():
    """The bins of a pool, and how much a shuffle enlarges: equal to counts of other channels."""
    net = Net(
        lambda net, x: net.last(
            F.adaptive_avg_pool2d(net.up(net.b(net.a(x))), net.bins).flatten(1)
        ),
        **{"bins": 8, "a": conv(3, 8), "b": conv(8, 64), "up": nn.PixelShuffle(4)},
        last=nn.Linear(4 * 64, 10),
    )
    model = quietly(net, "base", 2.0)
    assert (model.bins, model.up.upscale_factor, model.last.in_features) == (8, 4, 8 * 64)


@pytest.mark.parametrize("up", [16, (16, 2.5)])
def test_what_only_scales_or_trains_is_no_channel_count(up):
    """An interpolation's scale, and an integer that a loss alone reads."""
    net = Net(lambda net, x: F.interpolate(net.b(net.a(x)), scale_factor=net.up), num_steps=16)
    net.a, net.b, net.up, net.planes = conv(3, 16), conv(16, 5), up, 16
    model = quietly(net, "base", 0.5)
    assert (model.a.out_channels, model.up, model.num_steps, model.planes) == (8, up, 16, 8)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_what_is_cut_as_it_was_joined_keeps_its_boundary(width):
    def run(net, x):
        one, two = torch.cat([net.p(x), net.q(x)], 1).split(net.sizes, 1)
        return net.head(net.one(one) + net.two(two))

    net = Net(run, p=conv(3, 8), q=conv(3, 24), one=conv(8, 16), two=conv(24, 16), head=head(16))
    net.sizes = [8, 24]
    model = quietly(net, "reverse", width)
    assert model.sizes == [model.p.out_channels, model.q.out_channels]
    assert (model.one.in_channels, model.two.in_channels) == (*model.sizes,)

    def detect(net, x):  # as YOLO's head: boxes of 4 times 4 numbers, beside 7 classes
        x = torch.cat([net.p(x), net.q(x)], 1).view(len(x), net.all, -1)
        boxes, classes = x.split((4 * net.bins, net.classes), 1)
        return torch.cat([boxes.view(len(x), 4, net.bins, -1).softmax(2).sum(2), classes], 1)

    net = Net(lambda net, x: detect(net, net.stem(x)), stem=conv(3, 24), p=conv(24, 16))
    net.q, net.all, net.bins, net.classes = conv(24, 7), 23, 4, 7
    rows = quietly(net, "base", width).redistribution.rows
    assert [(row.layer, row.after) for row in rows] == [("stem", 24 * width), ("p", 16), ("q", 7)]
    assert all(row.note == "frozen: joins others to a fixed number" for row in rows[1:])


def test_bits_may_be_read_as_other_numbers():
    def run(net, x):
        return net.head(net.b(net.a(x).view(torch.int32).view(torch.float32)))

    model = quietly(Net(run, a=conv(3, 8), b=conv(8, 16), head=head(16)), "reverse")
    assert model.redistribution.filters == (16, 8)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_entries_are_no_channels(width):
    """The order that a buffer holds, a codebook's entries, and learnt queries."""

    def run(net, x):
        x = net.b(net.a(x)[:, net.order]).flatten(2).mT
        return net.fc((net.code((x @ net.code.weight.mT).argmax(-1)) + net.queries.mean(0)).mean(1))

    net = Net(run, a=conv(3, 16), b=conv(16, 12), code=nn.Embedding(20, 12), fc=nn.Linear(12, 5))
    net.register_buffer("order", torch.randperm(16))
    net.queries = nn.Parameter(torch.rand(10, 12))
    model = quietly(net, "base", width)
    assert (model.code.weight.shape, model.queries.shape) == ((20, 12 * width), (10, 12 * width))
    assert torch.equal(model.order, net.order)
    assert model.redistribution.rows[-1].note == "frozen: has an order that a buffer holds"


def test_attention_that_returns_its_map_leaves_filters_free():
    def run(net, x):
        x = net.conv(x)[:, :, ::4, ::4].flatten(2).mT
        values, attended = net.attention(x, x + 1, x, average_attn_weights=net.mean)
        return net.fc(values.mean(1)), attended

    net = Net(run, conv=conv(3, 16), attention=nn.MultiheadAttention(16, 4, batch_first=True))
    net.fc = nn.Linear(16, 5)
    for net.mean, shape in ((True, (2, 16, 16)), (False, (2, 4, 16, 16))):
        model = quietly(net, "base", 0.5)
        assert model.redistribution.filters == (8,)
        assert model(torch.rand(2, 3, 16, 16))[1].shape == shape
        assert model.redistribution.macs[1] == flops(model.train(False).requires_grad_())


def test_networks_that_select_by_values_have_no_memory(capsys):
    net = Net(lambda net, x: [row[row > 0] for row in net.conv(x)], conv=conv(3, 16))
    redistribute(net, "base", 0.5, image_size=16)
    assert capsys.readouterr().out == "params 0.50x, MACs 0.50x of the original's\n"
    with pytest.raises(ValueError, match=r"whose memory follows from sizes.*budget of params or"):
        quietly(net, "base", like="memory")


def test_kernels_stay_and_their_sizes_are_no_channel_counts():
    """Also of one dimension, by a module or by PyTorch's function; other integers are as large."""

    def run(net, x):
        x = net.b(F.interpolate(net.a(x), scale_factor=net.up).flatten(2))
        x = (x + F.conv1d(x, net.raw, padding=2)).reshape(len(x), net.h, net.dim_head, -1)
        return net.last(x.softmax(-1).flatten(1, 2).mean(2))

    net = Net(run, a=nn.Conv2d(3, 8, 4, 4), b=nn.Conv1d(8, 64, 7, padding=3), h=8, up=4)
    net.dim_head, net.raw, net.last = 8, nn.Parameter(torch.rand(64, 64, 5)), nn.Linear(64, 10)
    for width in (0.5, 2.0):
        model = quietly(net, "base", width)
        assert model.redistribution.filters == (8 * width, 64 * width)
        assert (model.b.weight.shape[2], model.raw.shape) == (7, (64 * width, 64 * width, 5))
        assert (model.h, model.up, model.dim_head) == (8, 4, 8 * width)


def test_macs_are_those_of_all_outputs_and_contractions():
    def run(net, x):
        maps = net.a(x)
        x = torch.einsum("nchw,oc->nohw", maps, net.w).mean((2, 3))
        x = torch.inner(torch.tensordot(x, net.w, dims=1), net.w)
        return {"aux": None, "count": 3, "maps": net.b(maps), "first": net.h(x), "last": net.h(x)}

    net = Net(run, a=conv(3, 16), b=conv(16, 8), w=nn.Parameter(torch.rand(32, 16)))
    net.h = nn.Linear(32, 10)
    model = quietly(net, "base", 2.0)
    assert model.redistribution.macs == (flops(net), flops(model))
    squares = Net(lambda net, x: net.h(*[net.a(x).mean((2, 3))] * 2), a=conv(3, 16))
    squares.h = nn.Bilinear(16, 16, 10)  # which PyTorch's counter leaves out
    assert quietly(squares).redistribution.macs[0] == flops(squares) + 16 * 16 * 10
    # A training trace, for a parameter that evaluation leaves unused, has evaluation's outputs.
    net.auxiliary = nn.Linear(16, 500)
    net.run = lambda net, x: (
        *run(net, x).values(),
        *([net.auxiliary(net.w)] if net.training else []),
    )
    assert quietly(net).redistribution.macs[0] == flops(net)


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolutions_are_coupled_and_counted(masked):
    def run(net, x):
        maps = net.first(x)
        moved = net.offsets(maps)
        mask = net.mask(maps).sigmoid() if masked else None
        return net.head(net.last(net.deformed(maps, moved, mask)))

    deformed = DeformConv2d(16, 32, 3, padding=1)
    net = Net(run, first=conv(3, 16), offsets=conv(16, 18), deformed=deformed, last=conv(32, 24))
    net.mask, net.head = conv(16, 9), head(24)
    for width in (1.0, 0.5):
        model = quietly(net, "uniform", width)
        held = model.redistribution
        pixels, convs = 16 * 16, [m for m in model.modules() if hasattr(m, "kernel_size")]
        convs = convs if masked else [m for m in convs if m is not model.mask]
        products = pixels * sum(m.weight.numel() for m in convs) + model.head[-1].weight.numel()
        assert held.macs[1] == products
        assert (model.offsets.out_channels, model.mask.out_channels) == (18, 9)
    assert model.deformed.weight.shape[:2] == (model.last.in_channels, model.first.out_channels)


def test_convolutions_of_one_image_at_a_time_make_layers():
    def run(net, x):
        maps = torch.stack([net.second(net.first(image)) for image in x])
        return net.head(maps)

    model = quietly(Net(run, first=conv(3, 16), second=conv(16, 32), head=head(32)), "uniform")
    assert [model.first.out_channels, model.second.out_channels] == [24, 24]
    assert [row.note for row in model.redistribution.rows] == ["", ""]


def test_macs_are_also_those_of_what_is_written_into_a_part():
    """By a slice, by a piece of it; what no output reads costs nothing, whatever is written."""

    def run(net, x):
        x = net.a(x)
        first, second = x.clone().chunk(2, 1)
        if net.written:
            first[:, :4] = net.b(x)
            second.narrow(1, 0, 4).relu_().add_(net.b(x))
            x.sin().add_(net.c(x))
        else:
            first = torch.cat([net.b(x), first[:, 4:]], 1)
            second = torch.cat([F.relu(second[:, :4]) + net.b(x), second[:, 4:]], 1)
        return net.head(torch.cat([first, second], 1))

    net = Net(run, written=False, a=conv(3, 16), b=conv(16, 4), c=conv(16, 16), head=head(16))
    known = flops(net)
    for net.written in (False, True):
        assert quietly(net, "base").redistribution.macs[0] == known


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("auxiliary", [False, True])
def test_what_runs_in_a_context_is_seen(auxiliary):
    """Export makes a graph of its own of that; here all else stays the same: plan and MACs."""

    def body(net, x):
        x = net.norm(net.a(x))
        return torch.einsum("nchw,oc->nohw", x + net.b(x), net.w)

    def run(net, x):
        with net.context():
            with net.context():
                x = body(net, x)
            shown = x.mean((2, 3))
        return (net.head(x.float()), shown) if net.training else net.head(x.float())

    net = Net(run, a=conv(3, 16), norm=nn.BatchNorm2d(16), b=conv(16, 16), head=head(24))
    net.w = nn.Parameter(torch.rand(24, 16))
    if auxiliary:  # so that training is traced, too
        net.unused = nn.Parameter(torch.ones(16))
    contexts = [nullcontext, torch.no_grad, torch.inference_mode]
    contexts += [lambda: torch.set_grad_enabled(net.training), lambda: torch.autocast("cpu")]
    contexts += [lambda: torch.autocast("cuda", enabled=False)]
    found = []
    for net.context in contexts:
        found.append(quietly(net, "reverse").redistribution)
    net.run = lambda net, x: net.head(checkpoint(body, net, x, use_reentrant=True))
    found.append(quietly(net, "reverse").redistribution)
    assert all(one == found[0] for one in found)
    assert (found[0].filters, found[0].macs[0]) == ((16,), flops(net))


@pytest.mark.parametrize("batch", [None, "expand", "repeat", "stack"])
def test_macs_of_what_no_image_is_behind_count_for_each(batch):
    """Of a learnt weight that is a product; of learnt queries, which may be a batch, too."""

    def run(net, x):
        x = F.conv2d(net.a(x), (net.u @ net.v).view(24, -1, 3, 3)).flatten(2).mT
        many = {
            None: lambda: net.queries,
            "expand": lambda: net.queries.expand(len(x), -1, -1).clone(),
            "repeat": lambda: net.queries.repeat(len(x), 1, 1),
            "stack": lambda: torch.stack([net.queries] * len(x)),
        }
        return net.last(F.scaled_dot_product_attention(net.q(many[batch]()), x, x).mean(1))

    net = Net(run, a=conv(3, 16), q=nn.Linear(24, 24), last=nn.Linear(24, 10))
    for name, shape in (("queries", (5, 24)), ("u", (24, 8)), ("v", (8, 16 * 9))):
        setattr(net, name, nn.Parameter(torch.rand(shape)))
    model = quietly(net, "base", 0.5)
    assert model.redistribution.macs == (flops(net), flops(model))


class Raw(nn.Module):
    """A convolution that is no module of PyTorch's."""

    def __init__(self, inputs, filters):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(filters, inputs, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


def test_widths_between_layers_keep_their_proportion_to_what_they_read():
    """Also those that a convolution reads next: before, these kept their numbers."""

    def mixed(net, x):
        x = net.a(x)
        x = x * net.excite(net.squeeze(x.mean((2, 3), keepdim=True)))
        y = net.depthwise(net.fc1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        x = net.raw(x + net.fc2(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return net.head(
            net.b(net.second(net.first(x.mean((2, 3))))[:, :, None, None].expand(-1, -1, 4, 4))
        )

    held = {"b": conv(24, 12), "second": nn.Linear(40, 24), "first": nn.Linear(64, 40)}
    held |= {"a": conv(3, 16), "squeeze": conv(16, 4, 1), "excite": conv(4, 16, 1)}
    held |= {"fc1": nn.Linear(16, 48), "fc2": nn.Linear(48, 16), "raw": Raw(16, 64)}
    net = Net(mixed, depthwise=conv(48, 48, groups=48), head=head(12), **held)
    halved = quietly(net, "base", 0.5, in_chans=3)
    assert [row.layer for row in halved.redistribution.rows] == ["a", "b"]
    for name, weight in net.named_parameters():
        shape = [n if n in (1, 3, 10) else n // 2 for n in weight.shape]
        assert list(halved.get_parameter(name).shape) == shape, name


@pytest.mark.parametrize(
    ("run", "inputs"),
    [
        (lambda net, x: x[:, : math.ceil(x.shape[1] / 2)], 8),
        (lambda net, x: x[:, : int(x.shape[1] * 0.5)], 8),
        (lambda net, x: x if x.shape[1] / net.a.weight.shape[2] > 1.5 else -x, 16),
        (lambda net, x: x if x.shape[1] ** 0.5 > 3 else -x, 16),
    ],
)
def test_sizes_may_be_computed_with_fractions(run, inputs):
    net = Net(lambda net, x: net.head(net.b(run(net, net.a(x)))), a=conv(3, 16), head=head(16))
    net.b = conv(inputs, 16)
    assert quietly(net, "base", 1.0625).redistribution.filters == (17, 17)


def test_norms_and_calls_of_other_kinds_leave_filters_free():
    net = nn.Sequential(
        *(conv(3, 16), nn.InstanceNorm2d(16), conv(16, 32), nn.InstanceNorm2d(32, affine=True)),
        *(conv(32, 20), nn.GroupNorm(20, 20), conv(20, 24), nn.GroupNorm(4, 24), head(24)),
    )
    model = quietly(net, "base", 1.5)
    assert model.redistribution.filters == (24, 48, 30, 36)
    assert (model[1].num_features, model[5].num_groups, model[7].num_groups) == (24, 30, 4)

    def run(net, x):
        x = net.b(input=net.b(net.a(input=x)))
        return net.head((x.permute(0, 2, 3, 1) * net.gain).permute(0, 3, 1, 2))

    net = Net(run, a=conv(3, 16), b=conv(16, 16), head=head(16))
    net.gain = nn.Parameter(torch.ones(1, 1, 1, 16))
    (row,) = quietly(net, "base", 1.5).redistribution.rows
    assert (row.after, row.convs) == (24, 2)  # called three times


def test_what_reads_a_sequence_of_columns_leaves_filters_free():
    """As of networks that read text: the images' columns are the steps of an LSTM or a GRU."""

    def run(net, x):
        columns = net.b(net.a(x)).permute(0, 3, 1, 2).flatten(2)
        return net.last(net.cell(net.gru(net.lstm(columns)[0])[0][:, -1])[0])

    lstm = nn.LSTM(16 * 24, 20, num_layers=2, bidirectional=True, batch_first=True)
    net = Net(run, a=conv(3, 16), b=conv(16, 24), lstm=lstm, last=nn.Linear(20, 10))
    net.gru, net.cell = nn.GRU(40, 20, batch_first=True), nn.LSTMCell(20, 20)
    model = quietly(net, "reverse", 0.5)
    assert model.redistribution.filters == (12, 8)
    assert (model.lstm.input_size, model.gru.input_size) == (16 * 8, 2 * model.lstm.hidden_size)
    each = sum(p.numel() for p in net.lstm.parameters() if p.dim() > 1)
    # PyTorch's counter has the GRU's, and the cell's, which takes one step.
    assert model.redistribution.macs[0] == flops(net) + 16 * each


class Standardised(nn.Conv2d):
    """A convolution of weights that it standardises, as those of networks without norms."""

    def forward(self, x):
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, padding=1)


def test_weights_that_are_reshaped_to_rows_of_filters_stay_free():
    net = nn.Sequential(Standardised(3, 40, 3), Standardised(40, 24, 3), head(24))
    assert quietly(net, "base", 0.5).redistribution.filters == (20, 12)


def test_a_slice_that_is_the_whole_is_no_part():
    """A GhostNet cuts what it has joined to the number of filters that it is to have: to all."""

    def run(net, x):
        x = net.a(x)
        return net.head(net.c(torch.cat([x, net.b(x)], 1)[:, : net.filters]))

    net = Net(run, a=conv(3, 8), b=conv(8, 8, groups=8), c=conv(16, 24), head=head(24), filters=16)
    found = study(net, 16).found
    assert [layer.convs for layer in found.layers] == [("a", "b"), ("c",)]
    assert found.channels.guards == ()  # not that it is no more than what it is cut from


def test_a_part_of_what_values_choose_hinders_no_trace():
    """How many they are is not known, so it is not asked whether a slice of them is empty."""

    def run(net, x):
        scores = net.head(net.conv(x))
        chosen = torch.nonzero(scores.flatten() > 0)
        return scores + torch.cat([chosen[1:], chosen[:-1]]).sum()

    net = Net(run, conv=conv(3, 16), head=head(16))
    assert quietly(net, "base", 2.0).redistribution.filters == (32,)


def test_where_training_cannot_be_traced_evaluation_is_enough():
    def run(net, x):
        x = net.conv(x)
        return net.head(x * torch.rand(len(x), 1, 1, 1) if net.training else x)

    net = Net(run, conv=conv(3, 16), head=head(16), unused=nn.Parameter(torch.ones(16)))
    with pytest.warns(UserWarning, match=r"Tensor on .*; unused keep their shapes") as warned:
        assert quietly(net, "base", 2.0).redistribution.filters == (32,)
    assert warned[0].filename == __file__


def test_what_evaluation_alone_couples_or_reads_is_coupled():
    """Though a training step is traced, too, for what evaluation leaves unused."""
    net = Net(None, conv=conv(3, 16), head=head(16), unused=nn.Parameter(torch.ones(16)))
    net.own = conv(3, 16)
    net.run = lambda net, x: net.head(net.conv(x) + (0 if net.training else net.own(x)))
    model = quietly(net, "base", 2.0)
    assert model.own.out_channels == 32
    assert model.redistribution.macs[1] == flops(model)
    net.b, net.last = conv(16, 16), head(16)

    def run(net, x):
        x = net.conv(x)
        return net.last(net.b(x)) + net.head(x) if net.training else net.last(x + net.b(x))

    net.run = run
    assert quietly(net, "base", 2.0).redistribution.filters == (32,)


def test_the_table_says_what_the_code_adds_to_a_layers_filters():
    """As the first ResNets do for CIFAR, which fill up a shortcut's channels with zeros."""

    def run(net, x):
        x = net.stem(x)
        x = F.relu(F.pad(x, (0, 0, 0, 0, 8, 8)) + net.a(x))
        return net.head(F.pad(x, (0, 0, 0, 0, 16, 16)) + net.b(x))

    net = Net(run, stem=conv(3, 16), a=conv(16, 32), b=conv(32, 64), head=head(64))
    (row,) = quietly(net, "base", 0.5).redistribution.rows
    said = "a has 24, not 16: its code adds 16; b has 56, not 32: its code adds 48"
    assert (row.after, row.note) == (8, said)
    assert quietly(net).redistribution.rows[0].note == ""


def test_the_table_says_what_else_a_convolution_has_than_its_layers_filters():
    """As where the first ResNets' shortcuts hold how many zeros they fill up with."""

    def run(net, x):
        x = net.stem(x)
        return net.head(F.relu(F.pad(x, (0, 0, 0, 0, 0, net.added)) + net.a(x)))

    net = Net(run, stem=conv(3, 16), a=conv(16, 32), head=head(32), added=16)
    for template, width in (("base", 1.0), ("reverse", 2.0)):
        model = quietly(net, template, width)
        own, said = int(16 * width), f"a has {int(32 * width)}: {int(16 * width)} of this layer"
        rows = model.redistribution.rows
        assert [(row.after, row.note) for row in rows] == [
            (own, ""),
            (own, f"{said}, the rest of others"),
        ]
        assert model.a.out_channels == int(32 * width)


def test_multiples_stay_multiples_in_groups_and_all_layers_may_be_fixed():
    net = nn.Sequential(conv(3, 8), conv(8, 12), conv(12, 40), head(40))
    tied = quietly(net, "uniform", tie=[["0", "1"]], round_to=8)
    assert tied.redistribution.filters == (24, 40, 24)
    assert quietly(net, "reverse", 0.5, fixed=["0", "1", "2"]).redistribution.filters == (4, 6, 20)


def test_filters_of_ones_own_stand_alone():
    net = nn.Sequential(conv(3, 8), conv(8, 16), head(16))
    own = apply_template([8, 16], "reverse", 0.5)
    assert quietly(net, filters=own).redistribution.filters == (8, 4)
    for given in ({"width": 0.5}, {"template": "reverse"}, {"round_to": 8}):
        with pytest.raises(ValueError, match="expected either filters or a template and width"):
            quietly(net, filters=own, **given)
    for given in ({"like": "params"}, {"macs": 1e6}):
        with pytest.raises(ValueError, match="expected either filters or a budget, got filters"):
            quietly(net, filters=own, **given)


def test_what_cannot_be_traced_says_what_to_do():
    def remember(net, x):
        net.seen = net.conv(x)
        return net.head(net.seen)

    used = Net(remember, conv=conv(3, 16), head=head(16))
    used(torch.rand(1, 3, 16, 16))
    constant = Net(lambda net, x: net.head(net.conv(x - net.mean)), conv=conv(3, 16), head=head(16))
    constant.mean = torch.rand(3, 1, 1)
    lazy = nn.Sequential(nn.LazyConv2d(16, 3), head(16))
    flat = nn.Sequential(conv(3, 16), nn.Flatten(), nn.Linear(16 * 64, 10))
    frozen = Net(lambda net, x: net.head(F.conv2d(net.conv(x), net.experts.mean(0))))
    frozen.conv, frozen.head = conv(3, 16), head(32)
    frozen.experts = nn.Parameter(torch.rand(4, 32, 16, 3, 3))
    pairs = nn.Bilinear(3, 3, 4)
    locked = Net(lambda net, x: net.head(net.conv(x)), conv=conv(3, 16), head=head(16))
    shown = copy.deepcopy(locked)
    shown.conv.register_forward_hook(lambda _, __, maps: maps.detach().numpy() and None)
    locked.lock = threading.Lock()
    branching, calling, counting = (copy.deepcopy(constant) for _ in range(3))
    branching.run = lambda net, x: net.head(net.conv(x if x.mean() > 0 else -x))
    calling.run = lambda net, x: net.head(
        torch.cond(x.mean() > 0, lambda maps: maps * 2, lambda maps: maps + 1, (net.conv(x),))
    )
    looked_up, computed, wrapped = (copy.deepcopy(constant) for _ in range(3))
    looked_up.run = lambda net, x: net.head({16: F.relu}[net.steps](net.conv(x)))
    looked_up.steps = 16
    computed.run = lambda net, x: net.head(net.conv(x) / np.sqrt(net.conv(x).shape[1]))
    wrapped.run = lambda net, x: SimpleNamespace(logits=net.head(net.conv(x)))
    counting.run = lambda net, x: net.head(net.conv(x)[torch.nonzero(x.sum((1, 2, 3)))[:, 0]])
    asking, holding, scripted = (copy.deepcopy(constant) for _ in range(3))
    asking.width, asking.run = 16, lambda net, x: net.head(net.conv(x)[:, : pair(net.width)[0]])
    holding.seen = {}
    holding.conv.register_forward_hook(lambda _, __, maps: holding.seen.update(last=maps))
    holding.run = lambda net, x: net.head((net.conv(x), net.seen["last"])[1])
    scripted.conv = torch.jit.script(conv(3, 16))
    for net, words in (
        (used, "holds a computed tensor"),
        (constant, "hold constant tensors by register_buffer"),
        (lazy, "run the network once first"),
        (flat, r"\(3, 16, 16\).*image_size= and in_chans= choose others"),
        (frozen, "Net with none: conv has a size that stays a number"),
        (locked, r"cannot copy, such as a lock or an open file.*'_thread\.lock'"),
        (shown, r"or a forward hook of yours, reads tensors' values: .* there are none$"),
        (branching, "branches on tensors' values: choose by sizes, or by what its modules hold$"),
        (calling, "expected a forward pass of known operations, got cond: choose by integers"),
        (counting, r"expected sizes that filters decide, got .*u\d.*depends on tensors' values"),
        (looked_up, "looks something up by an integer equal to a channel count"),
        (computed, r"compute sizes with \*\* 0.5 or Python's math, not with NumPy"),
        (wrapped, "return tensors, in tuples, lists or dicts"),
        (asking, r"isinstance\(\.\.\., int\) of an integer equal to a channel count: hold it"),
        (holding, "KeyError: 'last'; if a forward hook .* holds the network itself"),
        (scripted, "got what torch.jit made, a RecursiveScriptModule as its conv"),
        (pairs, "missing 1 required positional argument.*forward.. takes images alone"),
    ):
        with pytest.raises(ValueError, match=words):
            quietly(net, "base", 2.0)
    with pytest.raises(TypeError, match="options that timm/resnet18 takes, got colour"):
        redistribute("resnet18", "uniform", image_size=32, colour=1)
