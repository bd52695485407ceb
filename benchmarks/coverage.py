"""Which networks `redistribute` can change: every CNN of torchvision, one of each family in timm.

Each is traced once, rebuilt under four templates at three widths, and run forward and backward, in
a process of its own. docs/coverage.md is written anew, with what fails and why.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import product
from statistics import median

import torch

from fredist.coupled import study
from fredist.coupled.redistribution import Redistribution
from fredist.coupled.sources import create
from fredist.device import describe
from fredist.paths import ROOT, write_whole
from fredist.templates import TEMPLATES

PLACE = ROOT / "docs" / "coverage.md"
SIZES = (64, None)  # of images: small ones where the network takes them, else its own
WIDTHS = (0.5, 1.0, 1.6)
TRIES = len(WIDTHS) * (len(TEMPLATES) - 1)
PEER_LIMIT = 60  # seconds for Torch-Pruning, some of whose graphs never end
LARGE = 100_000_000  # parameters from which a network runs on the meta device, without arithmetic
# timm's files whose networks are convolutional; those with "attention" in them are hybrids.
CONVOLUTIONAL = [
    "byoanet",
    "byobnet",
    "convmixer",
    "convnext",
    "cspnet",
    "cspnext",
    "csatv2",
    "densenet",
    "dla",
    "dpn",
    "edgenext",
    "efficientnet",
    "efficientvit_mit",
    "fasternet",
    "fastvit",
    "focalnet",
    "ghostnet",
    "hardcorenas",
    "hgnet",
    "hrnet",
    "inception_next",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnetv2",
    "mambaout",
    "metaformer",
    "mobilenetv3",
    "mobilenetv5",
    "nasnet",
    "nfnet",
    "pnasnet",
    "rdnet",
    "regnet",
    "repghost",
    "repvit",
    "res2net",
    "resnest",
    "resnet",
    "resnetv2",
    "rexnet",
    "selecsls",
    "senet",
    "sknet",
    "starnet",
    "tresnet",
    "vgg",
    "vovnet",
    "xception",
    "xception_aligned",
]
# torchvision's classifiers that are transformers.
TRANSFORMERS = ("vit_", "swin_", "maxvit_")


def networks(every: bool) -> dict[str, list[str]]:
    """Return the networks to try, by family; the smallest of each of timm's families, or all."""
    import timm
    from torchvision import models

    found = defaultdict(list)
    for name in models.list_models(module=models):
        if not name.startswith(TRANSFORMERS):
            found["torchvision"].append(f"torchvision/{name}")
    for module in CONVOLUTIONAL:
        families = defaultdict(list)
        for name in timm.list_models(module=module):
            if not name.startswith(("test_", "fredist_")):
                families[re.match("[a-z]+", name.removeprefix("tf_"))[0]].append(name)
        for family, names in families.items():
            kept = names if every else [min(names, key=parameters)]
            found[f"timm {module}: {family}"] = [f"timm/{name}" for name in kept]
    return found


def parameters(name: str) -> int:
    """Return a network's parameters without taking memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in create("timm", name).parameters())


def examine(source: str) -> dict:
    """Return what became of one network."""
    library, _, name = source.partition("/")
    original = create(library, name)
    count = sum(p.numel() for p in original.parameters())
    found = {"source": source, "params": count, "works": 0, "causes": [], "rebuild_s": []}
    for size in SIZES:
        start = time.process_time()
        try:
            traced = study(source, size)
            break
        except ValueError as error:
            found["causes"] = [str(error)]
    else:
        return found
    found |= {"causes": [], "trace_s": time.process_time() - start, "image": traced.image_shape[1]}
    same = traced.plan("base")
    found["identity"] = same.params == (count, count) and not same.shapes
    found["layers"] = len(same.filters)
    found["frozen"] = [row.note for row in same.rows if row.note.startswith("frozen")]
    for template, width in product(TEMPLATES[1:], WIDTHS):
        try:
            plan = traced.plan(template, width)
            start = time.process_time()
            large = plan.params[1] > LARGE
            found["meta"] = found.get("meta", 0) + large
            known = plan.bare() if large else None
            built = Redistribution.from_json(plan.to_json()).build(known)
            found["rebuild_s"].append(time.process_time() - start)
            images = torch.rand(2, *traced.image_shape, device="meta" if large else "cpu")
            outputs = built.train()(images)
            outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
            sum(out.mean() for out in outputs if out is not None).backward()
            found["works"] += 1
        except Exception as error:  # each is a row of the table
            found["causes"].append(f"{template} {width}: {type(error).__name__}: {error}")
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(PEER_LIMIT)
    try:
        found["peer"] = beside_torch_pruning(source, traced)
    except Exception as error:  # its own limits are no fault of the network's
        found["peer"] = f"fails: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return found


def _too_long(*_) -> None:
    raise TimeoutError(f"takes longer than {PEER_LIMIT} s")


def beside_torch_pruning(source: str, traced) -> str:
    """Return whether Torch-Pruning, which knows kinds of modules, finds the same layers."""
    import torch_pruning

    model = create(*source.split("/")).eval()
    names = {module: name for name, module in model.named_modules()}
    layers = [set(layer.convs) for layer in traced.found.layers]
    graph = torch_pruning.DependencyGraph()
    graph.build_dependency(model, torch.rand(1, *traced.image_shape))
    for conv in [module for module in names if isinstance(module, torch.nn.Conv2d)]:
        prune = graph.get_pruner_of_module(conv).prune_out_channels
        steps = [step for step, _ in graph.get_pruning_group(conv, prune, idxs=[0])]
        coupled = {
            names.get(step.target.module)
            for step in steps
            if step.handler.__name__ == "prune_out_channels"
        }
        coupled &= set().union(*layers)
        if coupled and not any(coupled <= layer for layer in layers):
            return f"couples {', '.join(sorted(coupled)[:3])}, which are not one layer here"
        if coupled and coupled not in layers:
            (layer,) = (layer for layer in layers if coupled <= layer)
            return f"does not couple {sorted(layer - coupled)[0]} with {sorted(coupled)[0]}"
    return "agrees"


def main() -> None:
    """Examine what is asked for, one after the other, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", help="examine this network here and print what became of it")
    parser.add_argument("--all", action="store_true", help="every CNN of timm, not one a family")
    parser.add_argument(
        "--log", default="coverage.jsonl", help="go on from here; removed in the end"
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds for one network")
    asked = parser.parse_args()
    if asked.one:
        torch.set_num_threads(1)
        print(json.dumps(examine(asked.one)))
        return
    where = describe(torch.device("cpu"))
    where = {name: where[name] for name in ("device", "torch", "revision")}
    with open(asked.log, "a+", encoding="utf-8") as log:
        log.seek(0)
        known = read_log(lines := log.readlines(), where)
        if lines and not lines[-1].endswith("\n"):
            print(file=log)  # the next line is not the rest of one that was cut short
        families = networks(asked.all)
        for source in (name for names in families.values() for name in names):
            if source not in known:
                known[source] = in_a_process(source, asked.limit) | where
                print(json.dumps(known[source]), file=log, flush=True)
                print(f"{source}: {known[source]['works']} of {TRIES}", flush=True)
    write_whole(PLACE, as_text(families, known).encode())
    os.remove(asked.log)  # the next call examines all anew


def read_log(lines: Iterable[str], where: dict) -> dict[str, dict]:
    """Return what is known of networks: of this machine, torch and revision, in whole lines."""
    known = {}
    for line in lines:
        with suppress(ValueError):  # of one that was cut short
            found = json.loads(line)
            if where.items() <= found.items():
                known[found["source"]] = found
    return known


def in_a_process(source: str, limit: float) -> dict:
    """Examine a network in a process of its own, which may be killed or run out of time."""
    command = [sys.executable, "-m", "benchmarks.coverage", "--one", source]
    found = {"source": source, "works": 0}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        return json.loads(run.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return found | {"causes": [f"takes longer than {limit:g} s"]}
    except (IndexError, ValueError):
        return found | {
            "causes": [(run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]]
        }


def as_text(families: dict[str, list[str]], known: dict[str, dict]) -> str:
    """Return the table as Markdown, and what fails with its causes before it."""
    all_ = [(family, source) for family, names in families.items() for source in names]
    rows = [(family, known[source]) for family, source in all_ if source in known]
    lines = [
        "# Which networks can be redistributed",
        "",
        "Written by `make coverage`: each network is traced once, rebuilt from JSON under reverse, "
        f"uniform, quadratic and negative quadratic at widths {', '.join(map(str, WIDTHS))} "
        f"({TRIES} ways), and run forward and backward on two images. Where a network has more "
        f"than {LARGE:,} parameters, its shapes alone are run, without arithmetic: "
        '"(meta)" marks networks of which some of the ways were.',
        "",
    ]
    if len(rows) < len(all_):
        lines.append(f"- {len(all_) - len(rows)} of {len(all_)} networks are not examined yet.")
    lines += [*_summary(rows), "", "## What fails, and what cannot change", "", *_failures(rows)]
    lines += ["", "## Beside Torch-Pruning", "", *_peers(rows), "", "## All", "", *_all(rows)]
    return "\n".join(lines) + "\n"


def _summary(rows: list[tuple[str, dict]]) -> Iterator[str]:
    for library in ("torchvision", "timm"):
        own = [found for family, found in rows if family.startswith(library)]
        whole = sum(found["works"] == TRIES for found in own)
        same = sum(found.get("identity", False) for found in own)
        yield (
            f"- {library}: {whole} of {len(own)} networks in all {TRIES} ways; of {same} the base "
            "at width 1 is the original to the last parameter."
        )
    traced = [found["trace_s"] for _, found in rows if "trace_s" in found]
    rebuilt = [median(found["rebuild_s"]) for _, found in rows if found.get("rebuild_s")]
    where = describe(torch.device("cpu"))
    yield (
        f"- Median: {median(traced):.1f} s to trace, {median(rebuilt):.2f} s to rebuild from JSON, "
        f"of one core of {where['device']}, torch {where['torch']}, fredist at "
        f"{(where['revision'] or 'no revision')[:7]}."
    )


def _failures(rows: list[tuple[str, dict]]) -> Iterator[str]:
    for _, found in rows:
        causes = [cause.replace("|", "or").replace("\n", " ")[:300] for cause in found["causes"]]
        if causes:
            yield f"- {found['source']}, {TRIES - found['works']} of {TRIES}: {causes[0]}"
    for _, found in rows:
        for note, count in Counter(found.get("frozen", [])).items():
            yield f"- {found['source']}, {note} ({count} convolution{'s' * (count > 1)})"


def _peers(rows: list[tuple[str, dict]]) -> Iterator[str]:
    compared = [found for _, found in rows if "peer" in found]
    peers = Counter(found["peer"].split()[0].strip(":") for found in compared)
    yield (
        f"Its groups, found by another way, are the same layers for {peers['agrees']} of the "
        f"{peers.total()} networks compared; "
        f"it fails for {peers['fails']}. Where the two disagree, the networks were built and have "
        "run with the sizes of ours:"
    )
    for found in compared:
        if found["peer"].startswith(("couples", "does not")):
            yield f"- {found['source']}: Torch-Pruning {found['peer']}"


def _all(rows: list[tuple[str, dict]]) -> Iterator[str]:
    titles = ("network", "family", "parameters", "layers", "images", "ways", "trace s", "rebuild s")
    yield f"| {' | '.join(titles)} |"
    yield f"|---|---|{'---:|' * 6}"
    for family, found in rows:
        cells = [found["source"].partition("/")[2], family.removeprefix("timm ")]
        cells += [f"{found.get('params', 0):,}", found.get("layers", "-"), found.get("image", "-")]
        cells.append(f"{found['works']}{' (meta)' if found.get('meta') else ''}")
        cells.append(f"{found['trace_s']:.1f}" if "trace_s" in found else "-")
        cells.append(f"{median(found['rebuild_s']):.2f}" if found.get("rebuild_s") else "-")
        yield f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
