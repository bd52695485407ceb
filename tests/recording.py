"""Records for the tests of what is made of records: real ones, with plausible values."""

import json
from datetime import UTC, datetime, timedelta

from fredist.records import write_record
from fredist.runs import COMPUTED, Measurement

CPU = "AMD EPYC"
GPU = "NVIDIA H100"


def session(device, **rest):
    """Return what a session says of a device."""
    kind = "cuda" if device.startswith("NVIDIA") else "cpu"
    return {"device": device, "device_type": kind, "threads": 2, "seconds": 1.0} | rest


def trained(run, folder, top1, *devices, best=None, **results):
    """Write a run's record: `top1` after the last epoch, `best` at its best; return its path."""
    best = top1 if best is None else best
    values = {"top1_last": top1, "top5_last": 99.0, "top1_best": best}
    if run.recipe.evaluate_train:
        values |= {"train_top1_last": top1, "train_top1_best": best}
    values |= results
    history = {name: [50.0] * run.recipe.epochs for name in ("loss", "train_top1")}
    history["test_top1"] = [*[values["top1_best"]] * (run.recipe.epochs - 1), values["top1_last"]]
    history["test_top5"] = [values["top5_last"]] * run.recipe.epochs
    sessions = [session(device) for device in devices or [CPU]]
    return write_record(run, values, history, {"sessions": sessions}, folder).path


def measured(
    network, folder, method, batch, results, device=GPU, *, day=0, instructions=None, **changed
):
    """Write a measurement's record, finished `day` days from now, and return its path."""
    fields = {
        "image_size": 32,
        "quantity": "time" if method == "synchronised" else "memory",
        "threads": 2 if device == CPU else None,
        "torch": "2.15.0",
    } | changed
    finished = (datetime.now(UTC) + timedelta(days=day)).isoformat(timespec="seconds")
    own = session(CPU if device == COMPUTED else device, instructions=instructions)
    where = {"sessions": [own], "finished": finished}
    one = Measurement(network, method=method, batch=batch, device=device, **fields)
    return write_record(one, results, {}, where, folder).path


def timed(median, spread=0.1):
    """Return the results of a synchronised time in ms, half of its repeats that far around it."""
    ends = {"lower_quartile_ms": median * (1 - spread), "upper_quartile_ms": median * (1 + spread)}
    return {"median_ms": median, **ends, "repeats": 10, "bound_ms": median / 2}


def networks(choices):
    """Return the networks of an experiment, each once."""
    return list(dict.fromkeys(map(choices.network, choices.cells())))


def damage(path):
    """Change a digit of a record."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"schema": 1}))
