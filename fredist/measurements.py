"""Measurements as values, and measuring what is missing of many: Table 3, Figures 3 and 4."""

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import nn

from . import machine, provenance
from .measure import (
    MODES,
    compute_memory,
    count_macs,
    count_params,
    find_filling_batch,
    measure_memory,
    measure_tflops,
    time_inference,
)
from .models import SHAPING, create_model
from .progress import bar, say
from .provenance import device_name
from .runs import QUANTITIES, Store, identity, write_record
from .templates import check_choice
from .train import choose_device, keep_freed_memory

COMPUTED = "computed"  # in place of a device: memory that is computed, not measured
FILLING = "filling"  # in place of a number: the largest batch that the device's memory holds
MEASUREMENT_VERSION = 1  # raised when the same measurement comes to mean another


@dataclass(frozen=True)
class Network:
    """What is measured: a network's filters and what else decides its cost, as a run has them."""

    model: str
    filters: tuple
    options: tuple[tuple[str, object], ...]
    num_classes: int
    image_size: int

    def build(self) -> nn.Module:
        """Return the network, always with the same weights."""
        options = {k: v for k, v in self.options if k not in SHAPING}  # which have done so
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return create_model(
                self.model, num_classes=self.num_classes, filters=list(self.filters), **options
            )

    @cached_property
    def params(self) -> int:
        """The number of parameters."""
        with torch.device("meta"):
            return count_params(self.build())

    @cached_property
    def macs(self) -> int:
        """The multiply-accumulates of one image."""
        with torch.device("meta"):
            return count_macs(self.build(), self.image_size)


@dataclass(frozen=True)
class Measurement(Network):
    """One measurement of a network: everything that its result depends on.

    `device` is its maker's name for it, or "computed"; `threads` are the CPU's, None elsewhere;
    `batch` is a number or "filling".
    """

    batch: int | str
    quantity: str
    mode: str
    device: str
    threads: int | None
    torch: str
    precision: str = "float32"  # without TF32
    memory_format: str = "contiguous"
    version: int = MEASUREMENT_VERSION
    kind: str = "measurement"

    def __post_init__(self):
        check_choice("quantity", self.quantity, QUANTITIES)
        check_choice("mode", self.mode, MODES if self.quantity == "memory" else MODES[:1])
        check_choice("precision", self.precision, ("float32",))
        check_choice("memory_format", self.memory_format, ("contiguous",))

    @cached_property
    def id(self) -> str:
        """The hash over all fields, 12 hex digits."""
        return identity(self)

    @property
    def name(self) -> str:
        """Model, quantity and id: unique and readable."""
        return f"{self.model}-{self.quantity}-{self.id}"


def make_network(
    model: str,
    template: str = "base",
    width: float = 1.0,
    num_classes: int = 10,
    *,
    image_size: int = 32,
    convention: str = "equations",
    **options,
) -> Network:
    """Return a network to measure, its arguments those of `create_model`.

    Examples
    --------
    >>> make_network("resnet50", "uniform").filters
    (240, 240, 240, 240)
    """
    if options.get("scale_fixed") and width != 1:
        raise ValueError(
            f"expected scale_fixed=False at width {width:g}, got True: a network to measure is "
            "built from its filters, which do not say how wide its fixed layer is"
        )
    with torch.device("meta"):
        built = create_model(model, template, width, num_classes, convention=convention, **options)
    return Network(
        model, built.filters, tuple(sorted(built.options.items())), num_classes, image_size
    )


def wanted(
    networks: Iterable[Network],
    device: str | torch.device | None = None,
    *,
    quantities: Sequence[str] = QUANTITIES,
    modes: Sequence[str] = MODES,
    memory_batches: Sequence[int] = (64,),
    time_batches: Sequence[int | str] | None = None,
) -> list[Measurement]:
    """Return the measurements of some networks on a device, by default CUDA where there is one.

    On CUDA memory is measured, and by default time at batches 16, 64 and the filling one. On a CPU
    memory is computed, and by default time measured at batch 1. `modes` are those of memory.

    Examples
    --------
    >>> found = wanted([make_network("vgg19")], "cpu")
    >>> [(one.quantity, one.mode, one.batch) for one in found]
    [('memory', 'inference', 64), ('memory', 'training', 64), ('time', 'inference', 1)]
    """
    for quantity in quantities:
        check_choice("quantity", quantity, QUANTITIES)
    device = choose_device(device)
    on_cuda = device.type == "cuda"
    if time_batches is None:
        time_batches = (16, 64, FILLING) if on_cuda else (1,)
    asked = []
    if "memory" in quantities:
        place = device_name(device) if on_cuda else COMPUTED
        asked += [("memory", mode, batch, place) for batch in memory_batches for mode in modes]
    if "time" in quantities:
        asked += [("time", "inference", batch, device_name(device)) for batch in time_batches]
    return [
        Measurement(
            **{field.name: getattr(network, field.name) for field in fields(Network)},
            batch=batch,
            quantity=quantity,
            mode=mode,
            device=place,
            threads=_threads(quantity, device),
            torch=str(torch.__version__),
        )
        for network in dict.fromkeys(networks)
        for quantity, mode, batch, place in asked
    ]


def measure_missing(
    measurements: Iterable[Measurement],
    *,
    remeasure: bool = False,
    how: str = "fredist.measurements.measure_missing",
) -> None:
    """Make the measurements that have no record yet, or with `remeasure` all of them again.

    The smallest first, what is computed before what is measured; a measurement waits until no run
    trains on this machine, and keeps others from beginning. Each is recorded when it is made. One
    that fails (out of memory, say) is named and left out.

    Raises
    ------
    ValueError
        For a measurement on another device, number of threads or PyTorch than there is here.
    """
    store = Store()
    missing = [m for m in dict.fromkeys(measurements) if remeasure or store.find(m) is None]
    devices = {measurement: _device(measurement) for measurement in missing}
    missing.sort(key=_size)
    computed = [m for m in missing if m.device == COMPUTED]
    measured = [m for m in missing if m.device != COMPUTED]
    source = {"revision": provenance.revision(), "how": how}  # as it is now
    done = 0
    with bar(total=len(missing)) as shown:
        for part, rule in ((computed, nullcontext()), (measured, machine.timing())):
            if not part:
                continue
            with rule:
                for measurement in part:
                    shown.set_description(describe(measurement))
                    outcome = _measure(measurement, devices[measurement], remeasure, source)
                    done += 1
                    shown.update(1)
                    say(shown, f"[{done}/{len(missing)}] {describe(measurement)}: {outcome}")


def device_names(store: Store | None = None) -> list[str]:
    """Return the names of the devices that there are measurements of, "computed" among them.

    Examples
    --------
    >>> device_names(Store([]))
    []
    """
    store = Store() if store is None else store
    return sorted({record.run["device"] for record in store.measurements()})


def describe(measurement: Measurement) -> str:
    """Return a measurement in a few words, for a line of output."""
    m = measurement
    return f"{m.model} of {m.macs / 1e9:.2f} GMACs, {m.mode} {m.quantity} at batch {m.batch}"


def _size(measurement: Measurement) -> tuple:
    batch = measurement.batch
    return (1, measurement.macs) if batch == FILLING else (0, measurement.macs * batch)


def _measure(measurement, device: torch.device, remeasure: bool, source: dict) -> str:
    """Make and record one measurement; return what came out of it, in words."""
    if not remeasure and Store().find(measurement):
        return "measured by another process"
    start = time.monotonic()
    try:
        results = _results(measurement, device)
    except Exception as error:  # the others go on
        return f"failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    taken = {"seconds": round(time.monotonic() - start, 3), "threads": torch.get_num_threads()}
    write_record(measurement, results, {}, provenance.describe(device) | taken | source)
    if measurement.quantity == "time":
        return (
            f"{results['median_ms']:.2f} ms ({results['min_ms']:.2f} to {results['max_ms']:.2f}, "
            f"{results['repeats']} passes)"
        )
    return f"{next(iter(results.values())) / 1e6:,.1f} MB"


def _results(measurement: Measurement, device: torch.device) -> dict:
    m, batch = measurement, measurement.batch
    if m.device == COMPUTED:
        with torch.device("meta"):
            model = m.build()
        return {"peak_bytes": compute_memory(model, batch, m.image_size, m.mode)}
    if m.quantity == "memory":
        return measure_memory(m.build(), batch, m.image_size, m.mode, device)
    if device.type == "cpu":
        keep_freed_memory()  # or times depend on whether this process has trained before
    model = m.build().to(device)
    if batch == FILLING:
        batch = find_filling_batch(model, m.image_size)
    times = time_inference(model, batch, m.image_size)
    return times | {"batch": batch, "macs": m.macs, "matmul_tflops": measure_tflops(device)}


def _device(measurement: Measurement) -> torch.device:
    """Return the device to measure on, if the measurement can be made here."""
    m, cpu = measurement, torch.device("cpu")
    places = {COMPUTED: cpu, device_name(cpu): cpu}
    if torch.cuda.is_available():
        cuda = torch.device("cuda")
        places[device_name(cuda)] = cuda
    if m.device not in places:
        raise ValueError(
            f"expected a measurement on {' or '.join(places)}, got one on {m.device}: measure it "
            "there and copy its record"
        )
    here = (_threads(m.quantity, places[m.device]), str(torch.__version__))
    if (m.threads, m.torch) != here:
        raise ValueError(
            f"expected a measurement with (threads, PyTorch) {here}, as it is here, got one with "
            f"{(m.threads, m.torch)}: make it anew, wanted(...)"
        )
    return places[m.device]


def _threads(quantity: str, device: torch.device) -> int | None:
    """The number of threads where it matters: for a time on the CPU."""
    return torch.get_num_threads() if quantity == "time" and device.type == "cpu" else None
