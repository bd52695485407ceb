"""Parameters and MACs, in closed form, against the built networks and PyTorch's own counter."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fredist.networks import FAMILIES, Network, make_network
from fredist.networks.network import CONVENTIONS
from fredist.templates import TEMPLATES

WIDTHS = (0.05, 0.1, 0.25, 0.5, 0.8, 1.0, 1.3, 1.6)
DATA_SETS = ((10, 32), (100, 32), (200, 64))  # classes, image size
CONV_AND_LINEAR = (torch.ops.aten.convolution, torch.ops.aten.addmm)  # no pooling's product


def counted(network, size):
    """Return what PyTorch counts: parameters, and convs' and linears' MACs, of two FLOPs each."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = network.build().eval()
        model(torch.empty(1, network.in_chans, size, size))
    flops = counter.get_flop_counts()["Global"]
    params = sum(parameter.numel() for parameter in model.parameters())
    return params, sum(flops.get(operation, 0) for operation in CONV_AND_LINEAR) // 2


@pytest.mark.parametrize("model", FAMILIES)
def test_costs_are_those_of_the_built_network(model):
    heads, least = FAMILIES[model].heads, 16 if model == "vgg19" else 1
    asked = zip((*TEMPLATES, "base"), (64, 32, 33, 47, 30, least), strict=True)
    for i, (template, size) in enumerate(asked):
        network = make_network(
            model,
            template,
            WIDTHS[i],
            (10, 200, 0)[i % 3],
            in_chans=(3, 1)[i % 2],
            head=heads[i % len(heads)],
            convention=CONVENTIONS[i // 3],
        )
        assert (network.params, network.macs(size)) == counted(network, size), (network, size)


def test_modules_with_sizes_of_their_own_count_as_built():
    mixed = Network("inception", [7, [8, 4, 9, 5, 6, 2], *range(1, 9)], in_chans=2)
    assert (mixed.params, mixed.macs(np.uint8(37))) == counted(mixed, 37)


@pytest.mark.parametrize("model", FAMILIES)
def test_every_configuration_of_the_paper_costs_more_the_wider_it_is(model):
    for template, (classes, size) in product(TEMPLATES, DATA_SETS):
        asked = [make_network(model, template, w, classes, convention="published") for w in WIDTHS]
        costs = [(network.params, network.macs(size)) for network in asked]
        assert costs == sorted(set(costs))
