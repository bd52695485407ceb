"""Table 3, and the costs of Figures 3 and 4, from measurements made here and elsewhere."""

import math

import pytest

from fredist import costs, experiments
from fredist.measurements import COMPUTED, Measurement, wanted
from fredist.runs import Store, write_record

GPU = "a GPU"


def record(folder, network, quantity, results, *, device=GPU, mode="inference", batch=64, day=1):
    measurement = Measurement(
        **{name: getattr(network, name) for name in network.__dataclass_fields__},
        batch=batch,
        quantity=quantity,
        mode=mode,
        device=device,
        threads=None,
        torch="2.11.0",
    )
    provenance = {"device_type": "cuda", "finished": f"2026-01-0{day}T00:00:00+00:00"}
    return write_record(measurement, results, {}, provenance, folder)


def timed(median, batch=64):
    times = {"median_ms": median, "min_ms": median - 1, "max_ms": median + 1, "repeats": 5}
    return times | {"batch": batch, "macs": 10**9, "matmul_tflops": 10.0}


@pytest.fixture(scope="module")
def chosen():
    return experiments.table3()


def test_parameters_are_exact_and_printed_ones_stand_beside_the_published_network():
    parameters, _, _ = costs.table3(GPU, Store([]))
    frame = parameters.frame.set_index(["model", "template", "network"])
    assert len(frame) == 22
    assert frame["published"].count() == 20
    assert frame.loc[("resnet50", "uniform", "as published"), "params"] == 12_898_610
    assert frame.loc[("resnet50", "uniform", "as published"), "published"] == 12.9
    assert math.isnan(frame.loc[("resnet50", "uniform", "equations"), "published"])


def test_times_have_their_spread_and_the_devices_bound(tmp_path, chosen):
    network = chosen["vgg19", "base", "equations"]
    path = record(tmp_path, network, "time", timed(20.0))
    _, _, time = costs.table3(GPU, Store([tmp_path]))
    row = time.frame.iloc[0]
    assert [row[f"batch 64, {x}"] for x in ("median", "min", "max")] == [20.0, 19.0, 21.0]
    assert row["batch 64, bound"] == pytest.approx(2 * 1e9 * 64 / 10e12 * 1e3)  # 12.8 ms
    assert row["batch 64, records"] == path.name
    assert time.grid.loc["VGG-19, batch 64, median", "Base"] == "20.00"
    assert "Measured on a GPU" in time.note
    assert math.isnan(time.frame.iloc[1]["batch 64, median"])


def test_another_devices_times_are_not_shown(tmp_path, chosen):
    record(tmp_path, chosen["vgg19", "base", "equations"], "time", timed(20.0), device="other")
    store = Store([tmp_path])
    _, _, time = costs.table3(GPU, store)
    assert "Not measured on a GPU" in time.note
    assert math.isnan(costs.time_ms([chosen["vgg19", "base", "equations"]], GPU, store)[0])
    assert costs.time_ms([chosen["vgg19", "base", "equations"]], "other", store) == [20.0]


def test_the_newest_measurement_counts(tmp_path, chosen):
    network = chosen["vgg19", "base", "equations"]
    record(tmp_path, network, "time", timed(20.0), day=2)
    record(tmp_path, network, "time", timed(30.0), day=1)
    assert costs.time_ms([network], GPU, Store([tmp_path])) == [20.0]


def test_memory_is_measured_where_all_of_it_was_and_computed_else(tmp_path, chosen):
    measured = {"allocated_peak_bytes": 2e9, "reserved_peak_bytes": 3e9, "driver_bytes": 4e9}
    for network in chosen.values():
        for mode in ("inference", "training"):
            record(tmp_path, network, "memory", {"peak_bytes": 1e9}, device=COMPUTED, mode=mode)
    _, memory, _ = costs.table3(GPU, Store([tmp_path]))
    assert "Computed, not measured" in memory.note
    assert set(memory.frame["training, tensors"]) == {1.0}
    for network in list(chosen.values())[1:]:
        for mode in ("inference", "training"):
            record(tmp_path, network, "memory", measured, mode=mode)
    _, memory, _ = costs.table3(GPU, Store([tmp_path]))
    assert "Computed, not measured" in memory.note  # never two kinds in one table
    for mode in ("inference", "training"):
        record(tmp_path, next(iter(chosen.values())), "memory", measured, mode=mode)
    _, memory, _ = costs.table3(GPU, Store([tmp_path]))
    assert "Measured on a GPU" in memory.note
    row = memory.frame.iloc[0]
    kinds = ("allocated", "reserved", "driver")
    assert [row[f"training, {kind}"] for kind in kinds] == [2.0, 3.0, 4.0]
    frame = costs.cost_frame(GPU, Store([tmp_path]))
    assert set(frame["memory_gb"]) == {2.0}
    assert set(frame["source"]) == {GPU}


def test_what_a_cpu_measures_is_what_its_table_shows(chosen):
    one = [chosen["mobilenet", "base", "equations"]]
    asked = {(m.quantity, m.mode, m.batch) for m in wanted(one, "cpu")}
    assert asked == {
        ("memory", "inference", 64),
        ("memory", "training", 64),
        ("time", "inference", 1),
    }
