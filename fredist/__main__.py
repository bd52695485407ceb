"""The command line behind the Makefile: `python -m fredist render table1 --profile smoke`."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from functools import partial

from .checks import check_choice, check_choices, check_number
from .data import DATASETS, at_hand, load
from .notebook import CHOICES, check_device, execute, lab, parameters_of, publish
from .paper import EXPERIMENTS, Choices, choose
from .paths import NOTEBOOKS, figures_folder, need_checkout
from .progress import bar, readable
from .recipes import PROFILES, differences
from .records import Store

_SWITCH = {"action": argparse.BooleanOptionalAction}
_LIST = {"help": "names or numbers separated by commas; by default all"}
_OPTIONS = {f"--{one}": _LIST for one in CHOICES} | {
    "name": {"help": f"one of {', '.join(EXPERIMENTS)}"},
    "--profile": {"default": "auto", "help": "how to train; auto is paper with CUDA, else smoke"},
    "--device": {"help": "cpu or cuda; by default CUDA where there is one"},
    "--minutes": {"type": float, "help": "stop making in time; the next call continues"},
    "--train": _SWITCH | {"help": "make what is missing, or not; by default as the profile says"},
    "--download": _SWITCH | {"help": "fetch missing data sets; by default as the profile says"},
    "--remeasure": _SWITCH | {"help": "measure again what has been measured"},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 1 where something failed, named at the end."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by >&-
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        # A character that the terminal lacks must not end a command.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    options = _options(arguments)
    try:
        failed = options.pop("command")(**options) or {}
        sys.stdout.flush()
        for one, why in failed.items():
            print(f"{one}: {why}", file=sys.stderr)
        return int(bool(failed))
    except KeyboardInterrupt as stop:
        print("\ninterrupted: nothing is lost, the same command continues", file=sys.stderr)
        return 128 + next(iter(stop.args), signal.SIGINT)  # as shells and schedulers have it
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def render(name, train, minutes, remeasure, **given) -> dict[str, str]:
    """Show a table or figure: at once what there is, and again when what is missing is made."""
    auto = given["profile"] == "auto"
    store = Store()
    choices = _choose(name, given, store if train is False else None)
    check_device(choices)
    check_number("minutes", 1 if minutes is None else minutes, above=True)
    if remeasure and train is False:
        raise ValueError("expected --remeasure or --no-train, got both")
    here = choices.here  # else it is what a device elsewhere has measured
    if train or remeasure:
        _check_here(choices)
    need_checkout("the notebooks")  # the last check: from here on things are made
    profile, measured = choices.profile, []
    making = here and (profile.trains or not choices.experiment.trained if train is None else train)
    runs = choices.runs(store, making=bool(making))
    if (making or remeasure) and choices.experiment.measured:
        from .measure import measurements  # needs PyTorch

        measured = measurements(choices)
    elif remeasure:
        print(f"{name} measures nothing: --remeasure plays no part")
        remeasure = False
    jobs = dict.fromkeys([*(runs if making else ()), *measured])
    lacking = [job for job in jobs if not store.find(job, choices.device)]
    known = parameters_of(name)
    # What was not given is None, whatever the committed notebook shows.
    own = {"profile": choices.profile_name, "train": False}
    chosen = {one: getattr(choices, one) for one in CHOICES if given[one] is not None}
    own, typed = own | chosen, "".join(map(_typed, chosen, chosen.values()))
    show, failed = partial(_show, choices, {one: own.get(one) for one in known}), {}
    if not lacking or len(lacking) < len(jobs):
        failed = show()
    if lacking or remeasure:
        if auto and profile.protocol and making:
            _name_shorter(choices, typed)
        failed = _make(choices, jobs, minutes=minutes, remeasure=remeasure) | show()
    if train is None and here and not making:
        _name_missing(choices, runs, Store(), typed)
    _name_better(choices)
    return failed


def _name_shorter(choices: Choices, typed: str) -> None:
    """Say which profiles train less than the paper's protocol, and what they change."""
    print("Training by the paper's protocol, the longest. Shorter, with what they change:")
    for other in (one for one in PROFILES if not PROFILES[one].protocol):
        said = differences(PROFILES[other], choices.experiment.kinds[0], choices.models)
        print(f"  make {choices.name} PROFILE={other}{typed}  # {'; '.join(said)}", flush=True)


def _name_missing(choices: Choices, runs: Sequence, store: Store, typed: str) -> None:
    """Say how many runs and measurements are made only if asked, and how to ask."""
    jobs, what = [*runs], "runs"
    if choices.experiment.measured:
        from .measure import measurements

        jobs, what = [*runs, *measurements(choices)], "runs or measurements"
    if missing := sum(not store.find(job, choices.device) for job in jobs):
        how = f"make {choices.name} PROFILE={choices.profile_name}{typed} TRAIN=1"
        print(f"{missing} {what} are missing, and are made only if asked: {how}")


def _check_here(choices: Choices) -> None:
    """Refuse to make anything on a device that is only a name in records."""
    if not choices.here:
        raise ValueError(
            f"expected cpu or cuda as device to make what is missing, got {choices.device}"
        )


def _choose(name: str, given: dict, shown: Store | None = None) -> Choices:
    """Return the checked choices; what the experiment has no use for is said, and left out.

    Where only a store is `shown`, a data set counts as present if there are records of it.
    """
    given |= {"datasets": _fitting(name, given["datasets"])}
    given |= {"profile": choose(name, **given).profile_name}
    known = EXPERIMENTS[name].choices
    for one in [one for one in CHOICES if given[one] is not None and one not in known]:
        print(f"{name} has no {one} to choose from: --{one} plays no part")
        given[one] = None
    if shown is not None and given["datasets"] is None and EXPERIMENTS[name].trained:

        def recorded(one: str) -> bool:
            part = choose(name, **given | {"datasets": [one]})
            return any(map(shown.find, part.runs(shown, making=False)))

        given["datasets"] = list(choose(name, **given, present=recorded).datasets)
    return choose(name, **given)


def _typed(one: str, chosen: str | Sequence) -> str:
    """Return a choice as it is typed after `make table1`."""
    words = chosen if isinstance(chosen, str) else ",".join(map(str, chosen))
    return f" {one.upper()}={shlex.quote(words)}"


def _fitting(name: str, datasets: str | None) -> list[str] | None:
    """Return those data sets that an experiment can be of, where some are meant for others."""
    if datasets is None:
        return None
    given = check_choices("data sets", datasets, DATASETS)
    own = EXPERIMENTS[check_choice("table or figure", name, EXPERIMENTS)].datasets or given
    fitting = [one for one in given if one in own]
    for one in given if fitting else ():
        if one not in own:
            print(f"{name} is of {', '.join(own)}: {one} plays no part")
    return fitting or list(given)


def _show(choices: Choices, parameters: dict) -> dict[str, str]:
    """Execute the notebook, and print its table or what it has printed itself.

    One that fails, for want of Jupyter for one, is returned: the table needs none.
    """
    name, printed, failed = choices.name, "", {}
    target = figures_folder() / choices.profile_name / f"{name}{choices.suffix}.ipynb"
    try:
        printed = execute(NOTEBOOKS / f"{name}.ipynb", target, parameters)
    except RuntimeError as error:
        failed = {name: str(error)}
    from .results import collect  # needs pandas, for which a misspelled word need not wait
    from .tables import TABLES, say_text

    frame = collect(choices)
    if name in TABLES:
        printed = "\n\n".join(map(str, TABLES[name](choices, frame)))
    for text in (printed, *frame.attrs["said"]):
        say_text(text)
    if not failed:
        files = sorted(path.suffix for path in target.parent.iterdir() if path.stem == target.stem)
        say_text(f"\nfiles: {readable(target.with_suffix(''))}{', '.join(files)}")
    return failed


def _name_better(choices: Choices) -> None:
    """Say which better records are at hand than those shown, of the paper's own data sets."""
    from .tables import best_profile

    name, store, profiles = choices.name, Store(), list(PROFILES)  # the best first
    for dataset in choose(name, "paper").datasets:
        before = profiles.index(choices.profile_name) + (dataset not in choices.datasets)
        if best := best_profile(name, dataset, store, profiles[:before]):
            said = f"Better records are at hand, {DATASETS[dataset].label} of the profile {best}"
            print(f"{said}: make {name} PROFILE={best} DATASETS={dataset} TRAIN=0")


def _make(choices: Choices, jobs, download: bool | None = None, **options) -> dict[str, str]:
    """Make what is missing and return what failed."""
    from .jobs import make  # needs PyTorch

    how = f"python -m fredist, {choices.name} of profile {choices.profile_name}"
    download = choices.profile.download if download is None else download
    return make(jobs, device=choices.device, download=download, how=how, **options).failed


def train(name, minutes, download, **given) -> dict[str, str]:
    """Train a table's or figure's missing runs, without Jupyter."""
    choices = _choose(name, given)
    if not choices.experiment.trained:
        raise ValueError(f"expected a table or figure of trained networks, got {name}")
    _check_here(choices)
    print(*(before := Store()).problems, sep="\n", end="\n" * bool(before.problems))
    failed = _make(choices, choices.runs(before), download, minutes=minutes)
    runs = choices.runs(store := Store())  # their data may have come meanwhile
    found = sum(bool(store.find(run, choices.device)) for run in runs)
    print(f"{found} of {len(runs)} runs have a record")
    return failed


def measure(name, minutes, remeasure, **given) -> dict[str, str]:
    """Measure what is missing of a table or figure, without Jupyter."""
    choices = _choose(name, given)
    if not choices.experiment.measured:
        raise ValueError(f"expected a table or figure of memory or time, got {name}")
    _check_here(choices)
    from .measure import measurements  # needs PyTorch

    return _make(choices, measurements(choices), minutes=minutes, remeasure=bool(remeasure))


def data(datasets) -> dict[str, str]:
    """Download the data sets that are missing, and check them."""
    names, failed = PROFILES["paper"].datasets if datasets is None else datasets, {}
    for name in check_choices("data sets", names, DATASETS):
        there = "at hand" if at_hand(name) else "downloaded"
        try:
            images = load(name, download=True, progress=bar)
        except (ValueError, OSError) as error:  # the others go on
            failed[name] = str(error)
            continue
        counts = f"{len(images.train_labels):,} train and {len(images.test_labels):,} test"
        print(f"{name}: {counts} images, {there} as {images.source}")
    return failed


def _options(arguments: Sequence[str] | None) -> dict:
    """Return the function that was called by name, as `command`, and its arguments."""
    parser = argparse.ArgumentParser("python -m fredist", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="command")
    both = ["name", "--profile", *(f"--{one}" for one in CHOICES), "--minutes"]
    taken = {
        render: [*both, "--train", "--remeasure"],
        train: [*both, "--download"],
        measure: [*both, "--remeasure"],
        data: ["--datasets"],
        publish: [],
        lab: [],
    }
    for function, names in taken.items():
        said = function.__doc__.partition("\n")[0]
        command = commands.add_parser(function.__name__, help=said, allow_abbrev=False)
        command.set_defaults(command=function)
        for name in names:
            command.add_argument(name, **_OPTIONS[name])
    options, rest = parser.parse_known_args(arguments)
    if options.command is lab:
        options.options = rest  # JupyterLab's own
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return vars(options)


def _terminate(number: int, frame) -> None:
    """End all as Ctrl-C does."""
    signal.signal(number, signal.SIG_IGN)  # of a closing terminal both it and its shell tell
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # not on Windows
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _terminate)
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would interrupt the clean-up
    sys.exit(status)
