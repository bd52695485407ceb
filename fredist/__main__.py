"""The command line behind the Makefile: `python -m fredist train|render|publish|data`."""

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
    runs = experiments.EXPERIMENTS[name](profile, datasets, models, templates, seeds)
    how = f"python -m fredist train {name} --profile {profile}"
    left = train_missing(runs, device=device, minutes=minutes, download=profile != "smoke", how=how)
    print(f"{len(set(runs)) - left} of {len(set(runs))} runs of {name} have a record")
    return 0


def render(name, profile, datasets, models, templates, seeds) -> int:
    """Execute a table's or figure's notebook, training what is missing."""
    from .render import render

    render(name, profile, datasets, models, templates, seeds)
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

    def add(function, *, filters: bool):
        one = commands.add_parser(function.__name__, help=function.__doc__)
        one.set_defaults(command=function)
        if filters:
            one.add_argument("name", help="a table or figure, such as table1")
            one.add_argument("--profile", default="auto", help="auto, or a profile's name")
            one.add_argument(
                "--datasets", type=_names, help="comma-separated; default: the profile's"
            )
            one.add_argument("--models", type=_names, help="comma-separated; default: all")
            one.add_argument("--templates", type=_names, help="comma-separated; default: all")
            one.add_argument(
                "--seeds", type=_numbers, help="comma-separated; default: the profile's"
            )
        return one

    one = add(train, filters=True)
    one.add_argument("--minutes", type=float, help="stop in time; the next call continues")
    one.add_argument("--device", help="cuda or cpu; default: CUDA where there is one")
    add(render, filters=True)
    add(publish, filters=False)
    one = add(data, filters=False)
    one.add_argument("--datasets", type=_names, help="comma-separated; default: the paper's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
