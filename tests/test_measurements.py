"""Measurements as values, their records, and measuring what is missing."""

import os
import re
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from fredist import create_model, machine
from fredist.measure import bound_ms, compute_memory, count_macs
from fredist.measurements import (
    COMPUTED,
    FILLING,
    Measurement,
    device_names,
    make_network,
    measure_missing,
    wanted,
)
from fredist.provenance import device_name
from fredist.recipes import PROFILES
from fredist.runs import RecordError, Store, make_run, read_record, write_record

OLD, NEW = "2026-03-01T12:00:00+00:00", "2026-03-02T09:00:00+00:00"


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path, monkeypatch):
    """No measurement is at hand but the test's own."""
    monkeypatch.setattr("fredist.runs.RESULTS", tmp_path / "results")


def small(model="vgg19", template="base", **options):
    return make_network(model, template, 0.05, **options)


def memory(**changed):
    [found] = wanted([small()], "cpu", quantities=["memory"], modes=["inference"])
    return replace(found, **changed)


def timed(**changed):
    [found] = wanted([small()], "cpu", quantities=["time"])
    return replace(found, **changed)


def written(measurement, folder, peak=1, finished=OLD):
    provenance = {"device_type": "cpu", "finished": finished}
    return write_record(measurement, {"peak_bytes": peak}, {}, provenance, folder)


# -- networks


@pytest.mark.parametrize("model", ["vgg19", "resnet50", "inception", "mobilenet"])
def test_a_network_is_built_as_create_model_builds_it(model):
    network = make_network(model, "reverse", 0.25, 100, image_size=64)
    built, direct = network.build(), create_model(model, "reverse", 0.25, 100)
    shapes = {name: value.shape for name, value in direct.state_dict().items()}
    assert {name: value.shape for name, value in built.state_dict().items()} == shapes
    assert network.macs == count_macs(direct, 64)
    again = network.build().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in built.state_dict().items())


def test_a_network_of_a_run_is_the_same_network():
    run = make_run(PROFILES["paper"], "cifar10", "inception", "quadratic", reading="proportional")
    network = make_network("inception", "quadratic", reading="proportional")
    assert (network.filters, network.options) == (run.filters, run.options)
    assert network.build().filters == run.filters
    flat = make_network("vgg19", num_classes=200, image_size=64, head="flatten7x7")
    assert flat.build().head.fc.in_features == 512 * 49


def test_building_leaves_the_random_state_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    small().build()
    assert torch.equal(torch.rand(3), expected)


def test_a_fixed_layer_scaled_by_width_is_an_error():
    with pytest.raises(ValueError, match=r"expected scale_fixed=False at width 0\.5"):
        make_network("mobilenet", width=0.5, scale_fixed=True)


# -- measurements as values


def test_the_id_changes_with_every_single_field():
    one = memory()
    others = {
        "model": "resnet50",
        "filters": small("vgg19", "reverse").filters,
        "options": (("head", "flatten7x7"),),
        "num_classes": 100,
        "image_size": 64,
        "batch": FILLING,
        "quantity": "time",
        "mode": "training",
        "device": "another",
        "threads": 7,
        "torch": "2.0",
        "version": 0,
        "kind": "another",
    }
    fixed = {"precision", "memory_format"}  # of which there is one choice so far
    assert set(others) | fixed == {field.name for field in fields(Measurement)}
    ids = {replace(one, **{name: value}).id for name, value in others.items()}
    assert len(ids | {one.id}) == len(others) + 1
    assert re.fullmatch("vgg19-memory-[0-9a-f]{12}", one.name)
    assert replace(one).id == one.id
    with pytest.raises(FrozenInstanceError):
        one.batch = 1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("quantity", "speed"), ("mode", "test"), ("precision", "bfloat16"), ("memory_format", "nhwc")],
)
def test_what_is_not_measured_is_an_error(name, wrong):
    with pytest.raises(ValueError, match=f"unknown {name} '{wrong}'"):
        memory(**{name: wrong})
    with pytest.raises(ValueError, match="unknown mode 'training'"):
        timed(mode="training")  # only passes are timed


def test_wanted_on_a_cpu_is_computed_memory_and_times_of_one_image():
    cpu = device_name(torch.device("cpu"))
    found = wanted([small(), small(), small("mobilenet")], "cpu")
    shown = [(m.model, m.quantity, m.mode, m.batch, m.device, m.threads) for m in found]
    threads = torch.get_num_threads()
    assert shown == [
        (model, *rest)
        for model in ("vgg19", "mobilenet")
        for rest in (
            ("memory", "inference", 64, COMPUTED, None),
            ("memory", "training", 64, COMPUTED, None),
            ("time", "inference", 1, cpu, threads),
        )
    ]
    assert {m.torch for m in found} == {torch.__version__}
    assert len(wanted([small()], "cpu", memory_batches=(1, 2), time_batches=(1, 2, 4))) == 7
    with pytest.raises(ValueError, match="unknown quantity 'speed'"):
        wanted([small()], "cpu", quantities=["speed"])


# -- records


def test_a_measurements_record_comes_back_as_written(own_runs):
    one = memory()
    path = written(one, own_runs, 5)
    record = read_record(path)
    assert re.fullmatch(rf"vgg19-memory-{one.id}-[0-9a-f]{{12}}\.json", path.name)
    assert record.run["kind"] == "measurement"
    assert tuple(record.run["filters"]) == one.filters
    assert (record.run_id, record.results, record.history) == (one.id, {"peak_bytes": 5}, {})
    path.write_text(path.read_text().replace('"peak_bytes": 5', '"peak_bytes": 6'))
    with pytest.raises(RecordError, match="expected content with hash"):
        Store().find(one)


def test_the_newest_of_a_measurement_counts_whatever_its_device(own_runs):
    one, other = memory(), memory(mode="training")
    written(one, own_runs, 2, NEW)
    written(one, own_runs, 1, OLD)
    written(other, own_runs, 3, OLD)
    assert Store().find(one).results == {"peak_bytes": 2}
    peaks = sorted(record.results["peak_bytes"] for record in Store().measurements())
    assert peaks == [2, 3]


def test_measurements_and_runs_do_not_mix(own_runs, tiny):
    provenance = {"device_type": "cpu", "finished": OLD}
    run = tiny()
    path = write_record(run, {"test_top1": 1.0}, {}, provenance)
    written(memory(), own_runs)
    written(timed(device="an accelerator"), own_runs)
    store = Store()
    assert list(store.replicates(run)) == [0]
    assert store.find(run).path == path
    assert [r.run["quantity"] for r in store.measurements()] == ["memory", "time"]
    assert device_names() == sorted(["an accelerator", COMPUTED])
    path.write_text("damaged")  # runs are not read for measurements
    assert len(Store().measurements()) == 2


# -- measuring


def test_what_is_missing_is_measured_and_recorded(own_runs, capsys):
    asked = wanted([small(), small("mobilenet")], "cpu")[:5]  # times are slow
    measure_missing(asked, how="a test")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("[1/5] mobilenet of 0.00 GMACs, inference memory at batch 64: ")
    assert re.match(r"\[5/5\] vgg19 .* time at batch 1: \d+\.\d\d ms \(.* passes\)", lines[-1])
    smallest_first = [*["mobilenet"] * 2, *["vgg19"] * 2, "vgg19"]
    assert [line.split()[1] for line in lines] == smallest_first
    found = Store().collect(asked)
    assert len(found) == len(list(own_runs.iterdir())) == 5
    for one, record in found.items():
        assert record.run == read_record(record.path).run
        assert {"fredist", "torch", "revision", "device", "finished"} <= set(record.provenance)
        assert record.provenance["how"] == "a test"
        if one.quantity == "memory":
            direct = compute_memory(one.build(), 64, 32, one.mode)
            assert record.results == {"peak_bytes": direct}
        else:
            results = record.results
            assert results["min_ms"] <= results["median_ms"] <= results["max_ms"]
            assert (results["batch"], results["macs"]) == (1, one.macs)
            assert bound_ms(results["macs"], 1, results["matmul_tflops"]) > 0
            assert record.provenance["threads"] == one.threads == torch.get_num_threads()
    measure_missing(asked)
    assert capsys.readouterr().out == ""
    assert len(list(own_runs.iterdir())) == 5


def test_measuring_again_replaces(own_runs, capsys):
    written(memory(), own_runs, 1, OLD)
    measure_missing([memory()])
    assert Store().find(memory()).results == {"peak_bytes": 1}
    measure_missing([memory()], remeasure=True)
    assert Store().find(memory()).results["peak_bytes"] > 1
    assert len(Store().measurements()) == 1


def test_what_fails_is_named_and_left_out_and_the_others_go_on(own_runs, capsys):
    fails = replace(memory(), image_size=33, batch=-1)
    measure_missing([fails, memory()])
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"\[1/2\] vgg19 of .* at batch -1: failed with RuntimeError: ", lines[0])
    assert lines[1].startswith("[2/2]")
    assert Store().find(fails) is None
    assert Store().find(memory())


def test_what_cannot_be_measured_here_is_an_error_before_anything_is_measured(own_runs):
    for one, message in {
        timed(device="another"): "expected a measurement on computed or .*, got one on another",
        timed(threads=99): r"expected a measurement with \(threads, PyTorch\) .*99",
        memory(torch="2.0"): "expected a measurement with .*'2.0'.*make it anew",
    }.items():
        with pytest.raises(ValueError, match=message):
            measure_missing([memory(), one])
    assert not own_runs.exists()


def train_until_told(folder):
    os.environ["FREDIST_LOCKS"] = str(folder / "locks")
    with machine.training():
        (folder / "began").touch()
        while not (folder / "end").exists():
            time.sleep(0.01)


def test_times_wait_for_a_training_run_and_memory_does_not(tmp_path, process, wait_for, capsys):
    child = process(train_until_told, tmp_path)
    wait_for((tmp_path / "began").exists)
    measure_missing([memory()])
    assert "waiting" not in capsys.readouterr().out
    script = (
        "import sys\n"
        "from fredist import measurements as m\n"
        "n = m.make_network('vgg19', width=0.05)\n"
        "m.measure_missing(m.wanted([n], 'cpu', quantities=['time']))\n"
        "print({'pandas', 'papermill', 'matplotlib'} & set(sys.modules) or 'only torch and timm')\n"
    )
    command = [sys.executable, "-c", script]
    place = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=place, stdout=subprocess.PIPE, text=True) as measuring:
        assert measuring.stdout.readline() == "waiting for a training run to end before timing\n"
        assert [r.run["quantity"] for r in Store().measurements()] == ["memory"]
        (tmp_path / "end").touch()
        assert measuring.stdout.readline().startswith("[1/1] vgg19")
        assert measuring.stdout.readline() == "only torch and timm\n"
    child.join()
    assert child.exitcode == 0
    assert len(Store().measurements()) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_memory_is_measured_and_the_filling_batch_timed(own_runs):
    asked = wanted([make_network("vgg19")], "cuda")
    assert [m.batch for m in asked] == [64, 64, 16, 64, FILLING]
    measure_missing(asked)
    found = Store().collect(asked)
    assert len(found) == 5
    assert found[asked[-1]].results["batch"] >= 64
    assert "allocated_peak_bytes" in found[asked[0]].results
    for one in asked[2:]:
        results = found[one].results
        bound = bound_ms(results["macs"], results["batch"], results["matmul_tflops"])
        assert results["median_ms"] > bound / 4
