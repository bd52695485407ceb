"""A sample of what `make coverage` tries: twelve kinds of networks, whole."""

import json
import sys

import pytest

from benchmarks import coverage
from benchmarks.coverage import TRIES, as_text, examine


def test_a_second_call_goes_on_and_a_third_examines_anew(tmp_path, monkeypatch):
    names, log, examined = ["timm/a", "timm/b", "timm/c"], tmp_path / "log", []
    found = {"params": 1, "works": TRIES, "causes": [], "rebuild_s": [0.5], "trace_s": 2.0}

    def examine(source, limit):
        if len(examined) == 2:
            raise KeyboardInterrupt
        examined.append(source)
        return found | {"source": source}

    monkeypatch.setattr(coverage, "networks", lambda every: {"timm": names})
    monkeypatch.setattr(coverage, "in_a_process", examine)
    monkeypatch.setattr(coverage, "PLACE", tmp_path / "coverage.md")
    monkeypatch.setattr(sys, "argv", ["coverage", "--log", str(log)])
    with pytest.raises(KeyboardInterrupt):
        coverage.main()
    first, second = map(json.loads, log.read_text().splitlines())
    other = first | {"device": "another"}  # whose numbers are not this machine's
    log.write_text(f"{json.dumps(other)}\n{json.dumps(second)}\n{json.dumps(first)[:-9]}")
    examined.clear()
    coverage.main()
    assert examined == ["timm/a", "timm/c"]
    assert "| c | timm | 1 |" in (tmp_path / "coverage.md").read_text()
    assert not log.exists()
    examined.clear()
    with pytest.raises(KeyboardInterrupt):
        coverage.main()
    assert examined == names[:2]


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
