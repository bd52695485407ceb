"""Table 3, and the costs on the x-axes of Figures 3 and 4: measurements beside the paper's."""

from collections.abc import Iterable

import pandas as pd

from . import experiments
from .measure import bound_ms
from .measurements import COMPUTED, FILLING, Network
from .provenance import device_name
from .report import Table, number, published
from .runs import Record, Store, as_recorded
from .tables import NETWORKS, labels, layout, paper_text
from .train import choose_device

TITAN_X_PASCAL_TFLOPS = 11.0  # float32, as its maker states
MEMORY = {  # of a CUDA measurement, and the one number of a computation
    "allocated": "allocated_peak_bytes",
    "reserved": "reserved_peak_bytes",
    "driver": "driver_bytes",
    "tensors": "peak_bytes",
}


def this_device() -> str:
    """Return the name of the device that is measured here: CUDA where there is one."""
    return device_name(choose_device())


def find(
    network: Network, quantity: str, store: Store, device: str, mode: str, batch: int | str
) -> Record | None:
    """Return the newest measurement of a network on a device, with whatever PyTorch and threads."""
    asked = as_recorded(network) | {
        "quantity": quantity,
        "device": device,
        "mode": mode,
        "batch": batch,
    }
    found = [
        record
        for record in store.measurements()
        if all(record.run[name] == value for name, value in asked.items())
    ]
    return max(found, key=lambda record: record.provenance["finished"], default=None)


def memory_gb(
    chosen: Iterable[Network],
    device: str | None = None,
    mode: str = "training",
    batch: int = 64,
    store: Store | None = None,
) -> list[float]:
    """Return networks' memory in GB (10^9 bytes); NaN where there is no measurement.

    The allocated peak where the device was measured, else the peak of all tensors as computed.
    """
    store, device = Store() if store is None else store, device or this_device()
    values = []
    for network in chosen:
        record = _memory(network, store, device, mode, batch)
        bytes_ = record and record.results.get(
            MEMORY["allocated"], record.results.get("peak_bytes")
        )
        values.append(bytes_ / 1e9 if record else float("nan"))
    return values


def time_ms(
    chosen: Iterable[Network], device: str | None = None, store: Store | None = None
) -> list[float]:
    """Return networks' median inference time in ms: of a batch of 64, on a CPU of one image."""
    store, device = Store() if store is None else store, device or this_device()
    values = []
    for network in chosen:
        records = [find(network, "time", store, device, "inference", b) for b in (64, 1)]
        values.append(next((r.results["median_ms"] for r in records if r), float("nan")))
    return values


def table3(device: str | None = None, store: Store | None = None) -> list[Table]:
    """Return Table 3 in three parts: parameters, memory and inference time.

    Parameters are counted. Memory is measured where `device` is a CUDA device that was measured,
    else computed. Beside each time stands the device's bound: the network's operations over the
    rate of a large matrix product measured in the same call.

    Parameters
    ----------
    device : str, optional
        The name of a device that has been measured, here or elsewhere; None is this machine's.
    store : Store, optional

    Examples
    --------
    >>> parameters, memory, time = table3("a device", Store([]))
    >>> parameters.frame[["model", "template", "params", "published"]].head(1).to_dict("records")
    [{'model': 'vgg19', 'template': 'base', 'params': 20040522, 'published': 20.0}]
    """
    store, device = Store() if store is None else store, device or this_device()
    chosen = experiments.table3()
    return [_parameters(chosen), _memories(chosen, store, device), _times(chosen, store, device)]


def cost_frame(device: str | None = None, store: Store | None = None) -> pd.DataFrame:
    """Return what claims are judged by: each network's parameters, memory and time, and source."""
    store, device = Store() if store is None else store, device or this_device()
    chosen = experiments.table3()
    frame = _rows(chosen)
    frame["params_millions"] = [network.params / 1e6 for network in chosen.values()]
    frame["memory_gb"] = memory_gb(chosen.values(), device, store=store)
    frame["time_ms"] = time_ms(chosen.values(), device, store)
    computed = _memory_device(chosen.values(), store, device) == COMPUTED
    frame["source"] = device + (", memory computed" if computed else "")
    return frame


def _parameters(chosen: dict) -> Table:
    frame = _beside(_rows(chosen), "params_millions").assign(
        params=[network.params for network in chosen.values()]
    )
    frame["params_millions"] = frame["params"] / 1e6
    lines = labels(frame).assign(
        parameters=frame["params"].map("{:,}".format),
        millions=frame["params_millions"].map("{:.1f}".format),
        published=paper_text(frame, "published", 1),
    )
    grid = layout(frame, {"": ("params_millions", 3), "published": ("published", 1)})
    caption = "Parameters in millions, 10 classes, beside the paper's."
    return Table(3, caption, "Counted exactly, on the networks at width 1.0.", frame, lines, grid)


def _memories(chosen: dict, store: Store, device: str) -> Table:
    frame = _beside(_rows(chosen), "memory_gb_per_batch")
    place = _memory_device(chosen.values(), store, device)
    kinds = ("tensors",) if place == COMPUTED else ("allocated", "reserved", "driver")
    lines, rows = labels(frame), {}
    for mode in ("inference", "training"):
        found = [find(n, "memory", store, place, mode, 64) for n in chosen.values()]
        for kind in kinds:
            name = f"{mode}, {kind}"
            frame[name] = [r.results[MEMORY[kind]] / 1e9 if r else None for r in found]
            lines[name] = [number(value, 3) for value in frame[name]]
            rows[name] = (name, 3)
        frame[f"{mode}_records"] = [r.path.name if r else "" for r in found]
    lines["published"] = paper_text(frame, "published", 1)
    grid = layout(frame, rows | {"published": ("published", 1)})
    caption = "Memory in GB (10^9 bytes) at a batch of 64 images of 32x32, beside the paper's."
    if place == COMPUTED:
        note = (
            "Computed, not measured: the peak of all tensors (parameters, gradients, momentum, "
            "activations) of the same pass, by PyTorch's own tracker on tensors without storage; "
            "without what operations need while they work."
        )
    else:
        note = (
            f"Measured on {place}: the allocator's peak, what it had reserved, and all in use on "
            "the device as its driver says, other processes included."
        )
    note += " The paper does not say whether its memory is of inference or of training."
    frame["device"] = place
    return Table(3, caption, note, frame, lines, grid)


def _times(chosen: dict, store: Store, device: str) -> Table:
    frame = _beside(_rows(chosen), "inference_ms_per_batch")
    frame["gmacs"] = [network.macs / 1e9 for network in chosen.values()]
    lines, rows, threads = labels(frame).assign(GMACs=frame["gmacs"].map("{:.2f}".format)), {}, []
    for batch in (1, 16, 64, FILLING):
        found = [find(n, "time", store, device, "inference", batch) for n in chosen.values()]
        if not any(found):
            continue
        threads += [r.run["threads"] for r in found if r]
        name = f"batch {batch}"
        for key in ("median", "min", "max"):
            frame[f"{name}, {key}"] = [r.results[f"{key}_ms"] if r else None for r in found]
        frame[f"{name}, bound"] = [
            bound_ms(r.results["macs"], r.results["batch"], r.results["matmul_tflops"])
            if r
            else None
            for r in found
        ]
        frame[f"{name}, images"] = [r.results["batch"] if r else None for r in found]
        frame[f"{name}, records"] = [r.path.name if r else "" for r in found]
        lines[name] = frame[f"{name}, median"].map(number)
        lines[f"bound {batch}"] = frame[f"{name}, bound"].map(number)
        rows |= {f"{name}, {x}": (f"{name}, {x}", 2) for x in ("median", "min", "max", "bound")}
    lines["published"] = paper_text(frame, "published", 1)
    grid = layout(frame, rows | {"published": ("published", 1)})
    least = bound_ms(chosen["resnet50", "reverse", "equations"].macs, 64, TITAN_X_PASCAL_TFLOPS)
    caption = "Inference time in ms per batch of 32x32 images, beside the paper's."
    on = f"{device}, {threads[0]} thread{'s' * (threads[0] != 1)}" if any(threads) else device
    note = (
        f"Measured on {on}: the median of repeated, warmed-up, synchronised passes in float32. "
        "Bound: the network's operations over the rate of a large matrix product measured in the "
        "same call; a convolution with fewer multiplications can be somewhat faster. The paper's "
        "were taken on a Titan X Pascal, and cannot all be synchronised "
        f"times at batch 64: ResNet-50 reverse would need {least:.0f} ms there, at least."
    )
    if not rows:
        note = f"Not measured on {device}. " + note.partition(". ")[2]
    frame["device"] = device
    return Table(3, caption, note, frame, lines, grid)


def _memory(network, store: Store, device: str, mode: str, batch: int) -> Record | None:
    return find(network, "memory", store, device, mode, batch) or find(
        network, "memory", store, COMPUTED, mode, batch
    )


def _memory_device(chosen: Iterable[Network], store: Store, device: str) -> str:
    """The device if all of these were measured on it, never two kinds of memory in one table."""
    asked = [(n, mode) for n in chosen for mode in ("inference", "training")]
    whole = all(find(n, "memory", store, device, mode, 64) for n, mode in asked)
    return device if whole else COMPUTED


def _rows(chosen: dict) -> pd.DataFrame:
    rows = [(model, template, NETWORKS[how]) for model, template, how in chosen]
    return pd.DataFrame(rows, columns=["model", "template", "network"])


def _beside(frame: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return the frame with the paper's number in the row of the network it describes."""
    paper = published(3).query("quantity == @quantity").set_index(["model", "template"])
    values, marks = [], []
    for row in frame.itertuples():
        printed = NETWORKS[experiments.printed_convention(row.model, row.template)]
        described = row.network == printed
        cell = paper.loc[(row.model, row.template)]
        values.append(cell["value"] if described else None)
        marks.append(bool(cell["doubtful"]) and described)
    return frame.assign(quantity=quantity, published=values, published_doubtful=marks)
