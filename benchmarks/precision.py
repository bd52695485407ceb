"""What the precision of the studies costs in accuracy: bfloat16 against float32, by seed.

`python -m benchmarks.precision` shows what has records, `--train` trains what has none: `small`'s
runs on CIFAR-10 once in each precision, with nothing else changed.
"""

import argparse
from dataclasses import replace

import pandas as pd

from fredist.jobs import make
from fredist.paper import Cell, Choices, choose
from fredist.recipes import VALUES
from fredist.records import Store
from fredist.runs import Run
from fredist.verdicts import decide

PRECISIONS = VALUES["precision"]  # float32 first


def runs(choices: Choices, cell: Cell) -> dict[tuple[str, int], Run]:
    """Return a network's runs by precision and seed."""
    found = {}
    for seed in choices.seeds:
        run = choices.run(cell, seed)
        for precision in PRECISIONS:
            recipe = replace(run.recipe, precision=precision)
            found[precision, seed] = replace(run, recipe=recipe)
    return found


def accuracies(choices: Choices, cell: Cell, store: Store) -> pd.DataFrame:
    """Return accuracies after the last epoch, of the seeds that have a record of each precision."""
    found = {precision: {} for precision in PRECISIONS}
    for (precision, seed), run in runs(choices, cell).items():
        if record := store.find(run):
            found[precision][seed] = record.results["top1_last"]
    return pd.DataFrame(found).dropna().sort_index()


def main():
    """Print the accuracies, and whether they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="vgg19")
    parser.add_argument("--templates", default="base,uniform")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--train", action="store_true")
    asked = vars(parser.parse_args())
    train = asked.pop("train")
    choices = choose("table1", "small", datasets="cifar10", **asked)
    if train:
        wanted = [run for cell in choices.cells() for run in runs(choices, cell).values()]
        print(make(wanted, how="python -m benchmarks.precision --train"))
    store = Store()
    for cell in choices.cells():
        found = accuracies(choices, cell, store)
        print(f"\n{cell.model} {cell.template}: {len(found)} of {len(choices.seeds)} seeds")
        if len(found):
            print(found.rename_axis("seed").to_string())
            print(decide(found, base=PRECISIONS[0]).round(4).to_string())


if __name__ == "__main__":
    main()
