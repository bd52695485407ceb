"""A sample of what `make coverage` tries: twelve kinds of networks, whole."""

import pytest

from benchmarks.coverage import TRIES, as_text, examine

SAMPLE = """
torchvision/googlenet torchvision/shufflenet_v2_x0_5 torchvision/squeezenet1_1 timm/convnext_atto
timm/dla46x_c timm/efficientnet_b0 timm/ghostnet_050 timm/mixnet_s timm/regnety_002 timm/resnet10t
timm/skresnet18 timm/starnet_s050
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", SAMPLE.split())
def test_every_template_and_width_gives_a_network_that_trains(source):
    found = examine(source)
    assert (found["works"], found["causes"], found["identity"]) == (TRIES, [], True)
    peers = {"timm/mixnet_s": "couples blocks.1.0"}  # which does not know that a split has sizes
    assert found["peer"].startswith(("agrees", "fails", peers.get(source, "agrees")))
    table = as_text({"sample": [source]}, {source: found})
    assert f"| {source.partition('/')[2]} | sample | {found['params']:,} |" in table
