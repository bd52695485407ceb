"""One tidy frame: what records, counts and the paper say of each network, a row for each quantity.

Tables and figures are pivots of it. Accuracies are of one kind of device, CUDA or CPU; memory and
time are of one device and one PyTorch. What is left out for that is said.
"""

import math
from dataclasses import asdict

import pandas as pd

from .paper import Cell, Choices
from .printed import published
from .records import Place, Record, Store
from .runs import MEASUREMENT_VERSION, METHODS, canonical

KEYS = ["dataset", "model", "template", "width", "like"]
COLUMNS = [
    *KEYS, "quantity", "value", "low", "high", "n", "of", "kind", "device", "profile", "seeds",
    "doubtful", "chance", "sources",
]  # fmt: skip
# The quantities of a run, in percent but for the loss, by what its record calls them.
TRAINED = ("top1_last", "top5_last", "top1_best", "train_top1_last", "train_top1_best", "loss_last")


def collect(choices: Choices, store: Store | None = None) -> pd.DataFrame:
    """Return one row for each network and quantity of an experiment, and for each printed number.

    Nothing is trained, measured or downloaded, and nothing that is missing stops the rest.

    Returns
    -------
    DataFrame with `COLUMNS`
        `value` is the mean over the `n` seeds there are, of `of` that were asked for, `low` and
        `high` the smallest and largest, `seeds` a dict of them all. `kind` is trained, measured,
        computed, counted or published; `chance` is the accuracy that guessing stays below.
        `attrs["said"]` has what was left out and why.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> frame = collect(choose("table1", "smoke", datasets="cifar10"), Store([]))
    >>> cell = frame.query("model == 'vgg19' and template == 'uniform'").set_index("quantity")
    >>> cell.value["params_millions"].item(), cell.query("kind == 'published'").value.item()
    (15.999106, 94.24)
    """
    store = Store() if store is None else store
    rows, said = [], list(store.problems)
    for cell in choices.cells():
        rows += _counted(choices, cell)
    if choices.experiment.trained:
        rows += _trained(choices, store, said)
    for quantity in choices.experiment.measured:
        rows += _measured(choices, quantity, store, said)
    rows += _published(choices)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.attrs["said"] = said
    return frame


def _row(cell: Cell, quantity: str, value: float, **rest) -> dict:
    """Return one row; a value that is alone is its own range."""
    nothing = math.isnan(value)
    return {
        **vars(cell),
        "quantity": quantity,
        "value": value,
        "low": value,
        "high": value,
        "n": 0 if nothing else 1,
        "of": 1,
        "device": "",
        "profile": "",
        "seeds": {},
        "doubtful": False,
        "chance": math.nan,
        "sources": "",
    } | rest


def _counted(choices: Choices, cell: Cell) -> list[dict]:
    network = choices.network(cell)
    rows = [_row(cell, "params_millions", network.params / 1e6, kind="counted")]
    tells_macs = choices.experiment.measured or choices.experiment.like
    if tells_macs and not choices.experiment.curves:  # slow
        macs = network.macs(choices.image_size(cell))
        rows.append(_row(cell, "gmacs", macs / 1e9, kind="counted"))
    return rows


def _trained(choices: Choices, store: Store, said: list[str]) -> list[dict]:
    """Return the accuracies of every network."""
    found, rows = _records(choices, store, said), []
    for cell in choices.cells():
        asked = choices.seeds_of(cell)
        of = {seed: found[cell, seed] for seed in asked if (cell, seed) in found}
        results = {seed: r.results | {"loss_last": r.history["loss"][-1]} for seed, r in of.items()}
        run = choices.run(cell, asked[0], fingerprint="")
        for quantity in TRAINED:
            seeds = {seed: own[quantity] for seed, own in results.items() if quantity in own}
            if not seeds and quantity.startswith("train_"):
                continue  # Table 2's
            values = list(seeds.values()) or [math.nan]
            rows.append(
                _row(
                    cell,
                    quantity,
                    sum(values) / len(values),
                    low=min(values),
                    high=max(values),
                    n=len(seeds),
                    of=len(asked),
                    kind="trained",
                    device="; ".join(sorted({record.device for record in of.values()})),
                    profile=choices.profile_name,
                    seeds=seeds,
                    chance=run.chance(quantity),
                    sources=" ".join(record.path.name for record in of.values()),
                )
            )
    return rows


def _records(choices: Choices, store: Store, said: list[str]) -> dict[tuple[Cell, int], Record]:
    """Return the records of runs by cell and seed, all of one kind of device.

    That is the one asked for, or the one of most runs, CUDA if equally many.
    """
    seeds = [(cell, seed) for cell in choices.cells() for seed in choices.seeds_of(cell)]
    runs = dict(zip(seeds, choices.runs(store, making=False), strict=True))
    found = {
        place: {key: record for key, run in runs.items() if (record := store.find(run, place))}
        for place in ((choices.device,) if choices.device else ("cuda", "cpu"))
    }
    chosen = max(found, key=lambda place: len(found[place]))
    at_hand = {key: record for key, run in runs.items() if (record := store.find(run))}
    if left := at_hand.keys() - found[chosen].keys():
        what = "device_type" if choices.here else "device"
        others = " and ".join(sorted({getattr(at_hand[key], what) for key in left}))
        own = "" if found[chosen] else f": none was on {chosen}"
        said.append(f"{len(left)} runs were trained on {others} alone, and are left out{own}")
    for name, count in store.other_copies(runs.values(), choices.device).items():
        said.append(f"{count} runs were trained on another copy of {name}, and are left out")
    return found[chosen]


_PEAKS = {
    "allocated_peak_bytes": "memory_{method}_allocated_gb",
    "reserved_peak_bytes": "memory_{method}_reserved_gb",
    "tensor_peak_bytes": "memory_{method}_tensors_gb",
}
# What a measurement's results are called here: (quantity, method) to its own name and unit.
_MEASURED = {
    ("memory", "code"): {"reserved_bytes": "memory_code_gb"},
    ("memory", "inference"): _PEAKS,
    ("memory", "training"): _PEAKS,
    ("time", "code"): {
        "mean_ms": "time_code_{batch}_ms",
        "first_ms": "time_first_{batch}_ms",
    },
    ("time", "synchronised"): {
        "median_ms": "time_synchronised_{batch}_ms",
        "bound_ms": "time_bound_{batch}_ms",
    },
}


def _measured(choices: Choices, quantity: str, store: Store, said: list[str]) -> list[dict]:
    """Return memory or time: of one device, its instructions, threads and PyTorch, the newest each.

    Of several places that with most of the table, then the newest; what is computed is on no
    device and stands in for all, after real ones.
    """
    places = _places(choices, quantity, store)
    if not places:
        return []
    asked = choices.device
    fitting = [p for p in places if asked in (None, p.device, p.device_type) or p.computed]
    if not fitting:
        there = ", ".join(sorted({place.device for place in places}))
        said.append(f"no {quantity} of {asked} at hand; there is {there}")
        return []
    newest = {p: max(record.finished for record in places[p].values()) for p in fitting}
    own = max(fitting, key=lambda p: (not p.computed, len(places[p]), newest[p]))
    if left := {_beside(place, own) for place in places if place != own}:
        said.append(f"{quantity} is of {own.device} alone; there is also {', '.join(sorted(left))}")
    return [
        _row(
            cell,
            name.format(method=method, batch=batch),
            record.results[key] / (1e9 if name.endswith("gb") else 1),
            **_quartiles(record.results, key),
            kind="computed" if own.computed else "measured",
            device=str(own),
            sources=record.path.name,
        )
        for (cell, method, batch), record in places[own].items()
        for key, name in _MEASURED[quantity, method].items()
        if key in record.results
    ]


def _quartiles(found: dict[str, float], key: str) -> dict[str, float]:
    """Return a median's range; nothing else that is measured has one."""
    sides = {"low": "lower_quartile_ms", "high": "upper_quartile_ms"}
    own = found if key == "median_ms" else {}
    return {end: own.get(name, math.nan) for end, name in sides.items()}


def _places(
    choices: Choices, quantity: str, store: Store
) -> dict[Place, dict[tuple[Cell, str, int], Record]]:
    """Return the newest records of cells, by cell, method and batch, of each place there is."""
    wanted: dict[str, list[Cell]] = {}  # two data sets, or two templates, can have one network
    for cell in choices.cells():
        key = canonical([asdict(choices.network(cell)), choices.image_size(cell)])
        wanted.setdefault(key, []).append(cell)
    places: dict[Place, dict[tuple, Record]] = {}
    for record in store.measurements():
        it = record.identity
        if it["quantity"] != quantity or it["version"] != MEASUREMENT_VERSION:
            continue
        if it["batch"] not in METHODS[quantity][it["method"]]:
            continue
        for cell in wanted.get(canonical([it["network"], it["image_size"]]), ()):
            places.setdefault(record.place, {})[cell, it["method"], it["batch"]] = record
    return places


def _beside(place: Place, own: Place) -> str:
    """Return what a place is called beside another, which may be the same device."""
    if place.device != own.device:
        return place.device
    return f"{place}, PyTorch {place.torch} {place.instructions}".rstrip()


def _published(choices: Choices) -> list[dict]:
    """Return the paper's numbers, each beside the network at width 1.0 that it describes.

    Beside a stand-in for a data set (the digits, a subset) stand those of the paper's own.
    """
    table = {"table1": 1, "table2": 2, "table3": 3}.get(choices.name)
    if table is None:
        return []
    printed = published(table)
    own = list(dict.fromkeys(printed["dataset"]))
    rows = []
    for cell in (cell for cell in choices.cells() if cell.width == 1.0):
        dataset = cell.dataset if cell.dataset in own else own[0]
        asked = pd.Series({"dataset": dataset, "model": cell.model, "template": cell.template})
        here = printed[printed[asked.index].eq(asked).all(axis=1)]
        source = {"kind": "published", "profile": "published"}
        rows += [
            _row(cell, one.quantity, one.value, doubtful=one.doubtful, **source)
            for one in here.itertuples()
        ]
    return rows


def histories(choices: Choices, store: Store | None = None) -> pd.DataFrame:
    """Return one row for each epoch of every run that has a record: its loss and accuracies.

    `train_eval_top1` is on the training images as test images are taken: NaN but for Table 2's.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> frame = histories(choose("table1", "smoke", datasets="cifar10"), Store([]))
    >>> frame.columns.tolist()[-5:]
    ['loss', 'train_top1', 'test_top1', 'test_top5', 'train_eval_top1']
    """
    store, rows = Store() if store is None else store, []
    columns = [*KEYS, "seed", "epoch", "loss", "train_top1", "test_top1", "test_top5",
               "train_eval_top1"]  # fmt: skip
    found = _records(choices, store, []) if choices.experiment.trained else {}
    for (cell, seed), record in found.items():
        history = pd.DataFrame(record.history).rename_axis("epoch").reset_index()
        rows.append(history.assign(**vars(cell), seed=seed, epoch=history["epoch"] + 1))
    return pd.concat(rows).reindex(columns=columns) if rows else pd.DataFrame(columns=columns)


def paired(own: dict, base: dict) -> list[tuple[float, float]]:
    """Return both networks' values for each seed that both have a number of; else a pair of NaN."""
    pairs = [(own[seed], base[seed]) for seed in own if seed in base]
    return [(a, b) for a, b in pairs if not math.isnan(a - b)] or [(math.nan, math.nan)]


def gains(frame: pd.DataFrame, quantity: str, kind: str | None = None) -> pd.DataFrame:
    """Return how each network differs from the base at width 1.0, in units and in percent.

    Only seeds that both have are compared, pair by pair: `low` and `high` are the smallest and
    largest difference of a pair (of one number without seeds, the difference itself), in percent
    `percent_low` and `percent_high`.

    Examples
    --------
    >>> from fredist.paper import choose
    >>> printed = collect(choose("table1", "smoke", datasets="cifar10"), Store([]))
    >>> best = gains(printed, "top1_best", "published").query("model == 'mobilenet'")
    >>> best.loc[best.gain.idxmax(), "template"], best.gain.max().item()
    ('reverse', 1.83)
    """
    part = frame[frame["quantity"] == quantity]
    part = part[part["kind"] == kind] if kind else part[part["kind"] != "published"]
    is_base = (part["template"] == "base") & (part["width"] == 1.0)
    bases = {(row.dataset, row.model, row.like): row for row in part[is_base].itertuples()}
    rows = []
    for row in part[~is_base].itertuples():
        if (base := bases.get((row.dataset, row.model, row.like))) is None:
            continue
        pairs = paired(row.seeds, base.seeds)
        if not row.seeds and not base.seeds:
            pairs = paired({0: row.value}, {0: base.value})
        points = [round(a - b, 9) for a, b in pairs]  # exact to fewer digits
        percents = [100 * (a / b - 1) if b else math.nan for a, b in pairs]
        rows.append(
            {
                **{key: getattr(row, key) for key in KEYS},
                "gain": round(sum(points) / len(points), 9),
                "low": min(points),
                "high": max(points),
                "percent": sum(percents) / len(percents),
                "percent_low": min(percents),
                "percent_high": max(percents),
                "n": 0 if math.isnan(points[0]) else len(points),
                "of": row.of,
                "kind": row.kind,
                "profile": row.profile,
                "doubtful": bool(row.doubtful or base.doubtful),
            }
        )
    columns = [*KEYS, "gain", "low", "high", "percent", "percent_low", "percent_high", "n", "of",
               "kind", "profile", "doubtful"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
