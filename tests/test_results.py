"""The one frame: what it takes of the records, and what it leaves out and says so."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from recording import CPU, GPU, damage, measured, networks, timed, trained
from scipy.stats import binom

from fredist import data
from fredist.data import DATASETS
from fredist.paper import choose
from fredist.records import Store
from fredist.results import COLUMNS, collect, gains, histories
from fredist.runs import COMPUTED

A100 = "NVIDIA A100"
PEAK = {"allocated_peak_bytes": 2e9, "reserved_peak_bytes": 3e9}


def vgg(name="table1", profile="paper", **chosen):
    return choose(name, profile, **{"models": "vgg19", "datasets": "cifar10"} | chosen)


def ours(frame, quantity, **where):
    """Return the rows of a quantity that are not the paper's."""
    rows = frame[(frame["quantity"] == quantity) & (frame["kind"] != "published")]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.reset_index(drop=True)


# -- what was trained


def test_a_cell_is_the_mean_and_range_over_the_seeds_that_were_asked_for(tmp_path):
    choices = vgg(templates="base")
    for seed, top1 in ((0, 50.0), (1, 60.0), (7, 99.0)):
        run = choices.run(choices.cells()[0], seed)
        path = trained(run, tmp_path, top1, best=top1 + 1)
    row = ours(collect(choices, Store([tmp_path])), "top1_last").loc[0]
    assert row[["value", "low", "high", "n", "of"]].tolist() == [55.0, 50.0, 60.0, 2, 3]
    assert row["seeds"] == {0: 50.0, 1: 60.0}
    assert path.name not in row["sources"]
    assert (row["kind"], row["profile"], row["device"]) == ("trained", "paper", CPU)
    assert ours(collect(choices, Store([tmp_path])), "top1_best").loc[0, "value"] == 56.0


def test_what_is_missing_is_a_row_without_a_value_and_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "none"))
    frame = collect(vgg(), Store([]))
    assert list(frame.columns) == COLUMNS
    assert ours(frame, "top1_last")["n"].tolist() == [0] * 5
    assert ours(frame, "top1_last")["value"].isna().all()
    assert frame.attrs["said"] == []


def test_profiles_never_mix(tmp_path):
    for run in vgg(seeds=0).runs():
        trained(run, tmp_path, 50.0)
    assert ours(collect(vgg(profile="quick"), Store([tmp_path])), "top1_last")["n"].sum() == 0


def test_one_table_is_of_one_kind_of_device(tmp_path):
    runs = vgg(seeds=0).runs()
    for run in runs[:3]:
        trained(run, tmp_path, 90.0, GPU)
    for run in runs[2:]:
        trained(run, tmp_path, 80.0, CPU)
    frame = collect(vgg(seeds=0), Store([tmp_path]))
    assert ours(frame, "top1_last")["value"].tolist()[:3] == [90.0] * 3
    assert ours(frame, "top1_last")["n"].tolist() == [1, 1, 1, 0, 0]
    assert frame.attrs["said"] == ["2 runs were trained on cpu alone, and are left out"]
    other = "Intel Xeon"
    trained(runs[0], tmp_path, 70.0, other)
    for device, there, named in (
        ("cpu", [1, 0, 1, 1, 1], {"", CPU, other}),
        (CPU, [0, 0, 1, 1, 1], {"", CPU}),
        (other, [1, 0, 0, 0, 0], {"", other}),
        (GPU, [1, 1, 1, 0, 0], {"", GPU}),
    ):
        asked = vgg(seeds=0, device=device)
        frame = ours(collect(asked, Store([tmp_path])), "top1_last")
        assert frame["n"].tolist() == there
        assert set(frame["device"]) == named
        assert histories(asked, Store([tmp_path]))["template"].nunique() == sum(there)


def test_that_kind_is_one_for_all_data_sets(tmp_path):
    choices = vgg(seeds=0, datasets="cifar10,cifar100")
    for run in choices.runs():
        trained(run, tmp_path, 80.0, CPU if run.dataset == "cifar10" else GPU)
    frame = collect(choices, Store([tmp_path]))
    assert set(ours(frame, "top1_last", n=1)["dataset"]) == {"cifar100"}
    assert frame.attrs["said"] == ["5 runs were trained on cpu alone, and are left out"]


def test_that_is_the_kind_of_most_runs_though_others_have_records_too(tmp_path):
    runs = vgg(seeds=0).runs()
    for run in runs:
        trained(run, tmp_path, 80.0, CPU)
    for run in runs[:3]:
        trained(run, tmp_path, 90.0, GPU)
    frame = collect(vgg(seeds=0), Store([tmp_path]))
    assert ours(frame, "top1_last")["value"].tolist() == [80.0] * 5
    assert frame.attrs["said"] == []


def test_histories_are_of_the_runs_that_the_table_shows(tmp_path):
    runs = vgg(seeds=0).runs()
    for run, device in zip(runs, (GPU, GPU, GPU, CPU, CPU), strict=True):
        trained(run, tmp_path, 50.0, device)
    shown = histories(vgg(seeds=0), Store([tmp_path]))["template"].unique().tolist()
    assert shown == [run.template for run in runs[:3]]
    assert histories(choose("budget", "small"), Store([])).empty


def test_a_run_that_moved_is_of_each_kind_and_names_both_devices(tmp_path):
    runs = vgg(seeds=0).runs()
    trained(runs[0], tmp_path, 90.0, CPU, GPU)
    trained(runs[1], tmp_path, 90.0, GPU)
    rows = ours(collect(vgg(seeds=0), Store([tmp_path])), "top1_last")
    assert rows["device"].tolist()[:2] == [f"{CPU} + {GPU}", GPU]


def test_records_of_data_that_are_not_at_hand_are_shown(tmp_path, monkeypatch):
    """The full Tiny-ImageNet is known by no fingerprint: its records have that of their data."""
    monkeypatch.setenv("FREDIST_DATA", str(tmp_path / "none"))
    choices = choose("table2", "paper", models="vgg19", seeds=0)
    for run in choices.runs():
        trained(replace(run, fingerprint="0123456789abcdef"), tmp_path, 50.0)
    store = Store([tmp_path])
    assert ours(collect(choices, store), "top1_last")["n"].tolist() == [1] * 5
    assert histories(choices, store)["template"].nunique() == 5


@pytest.mark.parametrize("known", [True, False])
def test_data_at_hand_go_before_those_of_most_runs_and_others_are_said(
    tmp_path, monkeypatch, known
):
    """The full Tiny-ImageNet has no known fingerprint, here the digits'; nothing is decoded."""
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], fingerprint=None))
    monkeypatch.setattr(data, "_learned", {})
    monkeypatch.setattr(data, "load", None)
    monkeypatch.setattr(data, "_read_cache", lambda file, *names: ["a" * 16] if known else None)
    choices = choose("table2", "smoke", datasets="digits", models="vgg19", seeds=0)
    for run in (runs := choices.runs(making=False)):
        trained(replace(run, fingerprint="b" * 16), tmp_path, 10.0)
    for run in runs[:2]:
        trained(replace(run, fingerprint="a" * 16), tmp_path, 50.0)
    frame = collect(choices, Store([tmp_path]))
    shown, others = ([50.0] * 2, 5) if known else ([10.0] * 5, 2)
    assert ours(frame, "top1_last")["value"].dropna().tolist() == shown
    left = f"{others} runs were trained on another copy of Digits, and are left out"
    assert frame.attrs["said"] == [left]


@pytest.mark.parametrize(("device", "other"), [("cuda", "cpu"), (GPU, CPU)])
def test_a_device_on_which_nothing_was_trained_is_said(tmp_path, device, other):
    """Of a kind the other kind, of a name the other name."""
    for run in vgg(seeds=0).runs():
        trained(run, tmp_path, 50.0)
    [said] = collect(vgg(seeds=0, device=device), Store([tmp_path])).attrs["said"]
    assert said == f"5 runs were trained on {other} alone, and are left out: none was on {device}"


def test_a_damaged_record_is_named_and_the_rest_is_shown(tmp_path):
    for run in vgg(seeds=0).runs():
        path = trained(run, tmp_path, 50.0)
    damage(path)
    frame = collect(vgg(seeds=0), Store([tmp_path]))
    assert ours(frame, "top1_last")["n"].tolist() == [1, 1, 1, 1, 0]
    assert path.name in frame.attrs["said"][0]


def test_chance_is_that_of_the_guesses_and_images_of_each_quantity():
    choices = choose("table1", "smoke", models="vgg19", templates="base", datasets="digits")
    frame, [run] = collect(choices, Store([])), choices.runs()
    for quantity, guesses, tries in (
        ("top1_last", 1, 1),
        ("top5_last", 5, 1),
        ("top1_best", 1, run.recipe.epochs),
    ):
        limit = round(ours(frame, quantity).loc[0, "chance"] * run.test_images / 100)
        below = binom(run.test_images, guesses / 10).cdf
        assert 1 - below(limit - 1) <= 1e-3 / tries < 1 - below(limit - 2)
    assert math.isnan(ours(frame, "loss_last").loc[0, "chance"])


def test_training_images_have_a_chance_of_their_own(tmp_path):
    choices = choose("table2", "smoke", models="vgg19", templates="base", datasets="digits")
    trained(choices.runs()[0], tmp_path, 60.0)
    frame = collect(choices, Store([tmp_path]))
    chances = [ours(frame, q).loc[0, "chance"] for q in ("train_top1_best", "top1_last")]
    assert 10 < chances[0] < chances[1]


# -- what was measured


@pytest.fixture
def table3():
    return choose("table3", "paper", models="vgg19", templates="base,uniform,reverse")


def test_a_quantity_is_of_one_device_and_the_others_are_named(tmp_path, table3):
    chosen = networks(table3)
    for network in chosen[:2]:
        measured(network, tmp_path, "synchronised", 64, timed(10.0), GPU)
    measured(chosen[2], tmp_path, "synchronised", 64, timed(20.0), A100)
    frame = collect(table3, Store([tmp_path]))
    times = ours(frame, "time_synchronised_64_ms")
    assert set(times["device"]) == {GPU}
    assert times["value"].tolist() == [10.0, 10.0]
    assert [times.loc[0, "low"], times.loc[0, "high"]] == pytest.approx([9.0, 11.0])
    assert frame.attrs["said"] == [f"time is of {GPU} alone; there is also {A100}"]
    named = choose("table3", "paper", models="vgg19", templates="uniform", device=A100)
    assert ours(collect(named, Store([tmp_path])), "time_synchronised_64_ms")["value"].item() == 20


def test_that_is_the_device_of_most_networks_however_often_one_was_measured(tmp_path, table3):
    chosen = networks(table3)
    for day in range(-4, 0):
        measured(chosen[0], tmp_path, "synchronised", 64, timed(10.0), GPU, day=day)
    for network in chosen[1:]:
        measured(network, tmp_path, "synchronised", 64, timed(20.0), A100)
    times = ours(collect(table3, Store([tmp_path])), "time_synchronised_64_ms")
    assert times["value"].tolist() == [20.0, 20.0]


def test_of_two_versions_with_equally_many_networks_the_newer_counts(tmp_path, table3):
    for version, day, time in (("2.9.0", -2, 10.0), ("2.15.0", -1, 20.0)):
        where = {"torch": version, "day": day}
        measured(networks(table3)[0], tmp_path, "synchronised", 64, timed(time), **where)
    frame = collect(table3, Store([tmp_path]))
    assert ours(frame, "time_synchronised_64_ms")["value"].tolist() == [20.0]
    assert frame.attrs["said"] == [f"time is of {GPU} alone; there is also {GPU}, PyTorch 2.9.0"]


@pytest.mark.parametrize(
    "other", [{"threads": 8}, {"torch": "2.11.0"}, {"instructions": "avx512 amx_tile"}]
)
def test_threads_versions_and_instructions_do_not_mix_either(tmp_path, table3, other):
    chosen = networks(table3)
    for network in chosen[:2]:
        measured(network, tmp_path, "synchronised", 16, timed(10.0), CPU)
    measured(chosen[2], tmp_path, "synchronised", 16, timed(20.0), CPU, **other)
    frame = collect(table3, Store([tmp_path]))
    times = ours(frame, "time_synchronised_16_ms")
    assert times["value"].tolist() == [10.0, 10.0]
    assert set(times["device"]) == {f"{CPU}, 2 threads"}
    named = {"threads": 2, "torch": "2.15.0", "instructions": ""} | other
    named = "{threads} threads, PyTorch {torch} {instructions}".format(**named).rstrip()
    assert frame.attrs["said"] == [f"time is of {CPU} alone; there is also {CPU}, {named}"]


def test_the_kind_of_device_that_is_asked_for_is_the_one_that_is_shown(tmp_path, table3):
    for network in networks(table3):
        measured(network, tmp_path, "synchronised", 64, timed(1.0), GPU)
    measured(networks(table3)[0], tmp_path, "synchronised", 16, timed(30.0), CPU)
    asked = choose("table3", "paper", models="vgg19", device="cpu")
    frame = collect(asked, Store([tmp_path]))
    assert ours(frame, "time_synchronised_64_ms").empty
    assert ours(frame, "time_synchronised_16_ms")["value"].tolist() == [30.0]
    nowhere = choose("table3", "paper", models="vgg19", device="a TPU")
    assert "no time of a TPU at hand" in collect(nowhere, Store([tmp_path])).attrs["said"][0]


def test_measured_and_computed_memory_have_names_of_their_own_and_never_stand_together(
    tmp_path, table3
):
    for network in networks(table3):
        measured(network, tmp_path, "training", 64, {"tensor_peak_bytes": 1e9}, COMPUTED)
    frame = collect(table3, Store([tmp_path]))
    assert set(ours(frame, "memory_training_tensors_gb")["kind"]) == {"computed"}
    measured(networks(table3)[0], tmp_path, "training", 64, PEAK, GPU)
    frame = collect(table3, Store([tmp_path]))
    assert ours(frame, "memory_training_tensors_gb").empty
    assert ours(frame, "memory_training_allocated_gb")["value"].tolist() == [2.0]
    assert ours(frame, "memory_training_reserved_gb")["value"].tolist() == [3.0]
    # What is computed is on no device: it stands in where another is asked for.
    asked = choose("table3", "paper", models="vgg19", device="cpu")
    assert len(ours(collect(asked, Store([tmp_path])), "memory_training_tensors_gb")) == 3


def test_the_newest_measurement_counts_unless_its_clock_was_ahead(tmp_path, table3):
    network = networks(table3)[0]
    for day, time in ((-2, 10.0), (-1, 20.0), (300, 30.0)):
        measured(network, tmp_path, "synchronised", 64, timed(time), day=day)
    frame = collect(table3, Store([tmp_path]))
    assert ours(frame, "time_synchronised_64_ms")["value"].tolist() == [20.0]
    assert "future" in frame.attrs["said"][0]


def test_costs_at_another_batch_or_of_an_older_method_are_not_taken_for_them(tmp_path, table3):
    network = networks(table3)[0]
    measured(network, tmp_path, "training", 16, PEAK)
    measured(network, tmp_path, "inference", 64, PEAK, version=1)
    measured(network, tmp_path, "synchronised", 1, timed(10.0), CPU)
    frame = collect(table3, Store([tmp_path]))
    assert set(frame["kind"]) == {"published", "counted"}


def test_networks_that_two_data_sets_share_are_measured_in_both(tmp_path):
    choices = vgg("figure3", "smoke", datasets="cifar10,digits")
    for network in networks(choices):
        measured(network, tmp_path, "training", 64, {"tensor_peak_bytes": 1e9}, COMPUTED)
    memory = ours(collect(choices, Store([tmp_path])), "memory_training_tensors_gb")
    assert memory.groupby("dataset").size().to_dict() == {"cifar10": 15, "digits": 15}


# -- what was published, and gains


def test_printed_numbers_stand_beside_their_networks_at_width_1():
    frame = collect(choose("table1", "smoke", datasets="digits", widths="1,0.5"), Store([]))
    printed = frame[frame["kind"] == "published"]
    assert len(printed) == 20  # CIFAR-10's, beside what stands in for it
    assert set(printed["width"]) == {1.0}
    assert set(printed["quantity"]) == {"top1_best"}
    base = printed[(printed["model"] == "mobilenet") & (printed["template"] == "base")]
    assert base["value"].item() == 89.52


def test_gains_pair_the_seeds_that_both_have(tmp_path):
    choices = vgg(templates="base,uniform,reverse")
    tops = {"base": {0: 50.0, 1: 60.0}, "uniform": {0: 53.0, 1: 61.0, 2: 90.0}}
    for run in choices.runs():
        if run.seed in tops.get(run.template, {}):
            trained(run, tmp_path, tops[run.template][run.seed])
    frame = collect(choices, Store([tmp_path]))
    gain = gains(frame, "top1_last").set_index("template")
    assert gain.loc["uniform", ["gain", "low", "high", "n", "of"]].tolist() == [2, 1, 3, 2, 3]
    assert gain.loc["uniform", "percent_high"] == pytest.approx(6.0)
    assert gain.loc["reverse", "n"] == 0
    assert math.isnan(gain.loc["reverse", "gain"])
    assert "base" not in gain.index
    printed = gains(frame, "top1_best", "published").set_index("template")
    assert printed["gain"].to_dict() == {"reverse": 0.88, "uniform": 0.72}


def test_showing_what_there_is_needs_no_pytorch():
    """Which takes seconds to import, in each notebook that shows it."""
    code = "import sys; from fredist import figures, paper, results, tables, verdicts; "
    code += "results.collect(paper.choose('figure3', 'smoke')); "
    code += "print({'torch', 'timm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
