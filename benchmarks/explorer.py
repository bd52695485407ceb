"""How long the explorer takes to answer, in one process, as its page does.

`python -m benchmarks.explorer [NETWORK ...]`: seconds until a network is known, and milliseconds
from a slider's move to all that the page then shows, the median and the slowest of twenty.
"""

import sys
import time
from statistics import median

from fredist.explored import State, answer
from fredist.networks import FAMILIES

NETWORKS = ("vgg19", "inception", "resnet18", "efficientnet_b0", "convnext_tiny", "densenet121")
MOVES = [0.25 + i / 20 for i in range(20)]


def shown(state, known) -> None:
    """Make all that the page shows of a choice, before anything is measured."""
    found = answer(state, known)
    found.figure._repr_png_()
    assert all((found.python, found.json, len(found.numbers), found.layers.to_html()))


def seconds(work, *arguments) -> tuple[object, float]:
    """Return what work returns, and how long it took."""
    start = time.perf_counter()
    made = work(*arguments)
    return made, time.perf_counter() - start


def main() -> None:
    """Print a line for each network and what its slider sets, as it is known."""
    shown(State(), None)  # what is imported and set up once
    for model in sys.argv[1:] or NETWORKS:
        size = 32 if model in FAMILIES else 224
        # Once: what a process has traced it keeps.
        known, first = seconds(State(model, image_size=size).study)
        for by in ("width", "macs"):
            moves = [State(model, "uniform", by, to, image_size=size) for to in MOVES]
            took = [1000 * seconds(shown, move, known)[1] for move in moves]
            line = f"{model:16} {by:5}: known in {first:5.2f} s; a move is answered in "
            print(f"{line}{median(took):4.0f} ms, at most {max(took):4.0f} ms", flush=True)


if __name__ == "__main__":
    main()
