"""What the precision of the studies costs in accuracy: bfloat16 against float32, by seed.

`python -m benchmarks.precision` shows what has records, `--train` trains what has none: `small`'s
runs on CIFAR-10 once as they are, and once in float32, with nothing else changed.
"""

import argparse
from dataclasses import replace

from fredist.jobs import make
from fredist.paper import choose
from fredist.recipes import CHOICES
from fredist.records import Store
from fredist.verdicts import decide


def main():
    """Print the accuracies after the last epoch, and whether they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vgg19")
    parser.add_argument("--templates", default="base,uniform")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--train", action="store_true")
    asked = vars(parser.parse_args())
    train = asked.pop("train")
    choices = choose("table1", "small", datasets="cifar10", **asked)
    runs = {
        (cell, precision, seed): replace(run, recipe=replace(run.recipe, precision=precision))
        for cell in choices.cells()
        for seed in choices.seeds
        for run in [choices.run(cell, seed)]
        for precision in CHOICES["precision"]
    }
    if train:
        print(make(runs.values(), how="python -m benchmarks.precision --train"))
    store = Store()
    for cell in choices.cells():
        found = {precision: {} for precision in CHOICES["precision"]}
        for (of, precision, seed), run in runs.items():
            record = store.find(run) if of == cell else None
            if record:
                found[precision][seed] = record.results["top1_last"]
        both = sorted(set.intersection(*map(set, found.values())))
        print(f"\n{cell.model} {cell.template}, {len(both)} of {len(choices.seeds)} seeds", found)
        if both:
            pairs = {name: {seed: own[seed] for seed in both} for name, own in found.items()}
            print(decide(pairs, base="float32").round(4).to_string())


if __name__ == "__main__":
    main()
