"""The command line behind the Makefile: `python -m fredist train|measure|render|publish|data`."""

import argparse
import sys
from collections.abc import Sequence

from . import experiments
from .templates import check_choice


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        return command(**options)
    except KeyboardInterrupt:
        print("\ninterrupted: nothing is lost, the same command continues", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def train(name, profile, datasets, models, templates, seeds, minutes, device) -> int:
    """Train a table's or figure's missing runs, without Jupyter."""
    from .sweep import train_missing

    check_choice("experiment", name, tuple(experiments.EXPERIMENTS))
    profile = experiments.resolve_profile(profile)
    experiments.fetch_unknown(name, profile, datasets)
    runs = experiments.EXPERIMENTS[name](profile, datasets, models, templates, seeds)
    how = f"python -m fredist train {name} --profile {profile}"
    left = train_missing(runs, device=device, minutes=minutes, download=profile != "smoke", how=how)
    print(f"{len(set(runs)) - left} of {len(set(runs))} runs of {name} have a record")
    return 0


def measure(models, templates, remeasure, device) -> int:
    """Measure what is missing of Table 3, without Jupyter."""
    from . import measurements

    wanted = measurements.wanted(experiments.table3(models, templates).values(), device)
    measurements.measure_missing(wanted, remeasure=remeasure, how="python -m fredist measure")
    return 0


def render(name, profile, datasets, models, templates, seeds, remeasure) -> int:
    """Execute a table's or figure's notebook, making what is missing."""
    from .render import render

    render(name, profile, datasets, models, templates, seeds, remeasure)
    return 0


def publish() -> int:
    """Remake the committed tables and notebooks from the shipped records."""
    from .render import publish

    publish()
    return 0


def data(datasets) -> int:
    """Download the data sets that are missing, and check them."""
    from .render import fetch

    fetch(datasets)
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _names(text)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m fredist", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(function):
        one = commands.add_parser(function.__name__, help=function.__doc__)
        one.set_defaults(command=function)
        return one

    def list_of(one, *names, kind=_names):
        for name in names:
            one.add_argument(f"--{name}", type=kind, help="comma-separated; default: all there are")

    training, rendering = add(train), add(render)
    for one in (training, rendering):
        one.add_argument("name", help="a table or figure, such as table1")
        one.add_argument("--profile", default="auto", help="auto, or a profile's name")
        list_of(one, "datasets", "models", "templates")
        list_of(one, "seeds", kind=_numbers)
    training.add_argument("--minutes", type=float, help="stop in time; the next call continues")
    measuring = add(measure)
    list_of(measuring, "models", "templates")
    for one in (training, measuring):
        one.add_argument("--device", help="cuda or cpu; default: CUDA where there is one")
    for one in (rendering, measuring):
        one.add_argument("--remeasure", action="store_true", help="measure again what has been")
    add(publish)
    list_of(add(data), "datasets")
    return parser


if __name__ == "__main__":
    sys.exit(main())
