"""Training what is missing: once each, in order, and whatever happens on the way."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
from sweeping import outcome, records, straight, trained, unfinished

from fredist.provenance import device_name
from fredist.recipes import Reduction
from fredist.runs import Store, write_record
from fredist.sweep import TrainingFailed, describe, estimate, train_missing

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


# -- only what is missing


def test_each_run_gets_one_record_and_the_second_call_trains_nothing(
    tiny, digits, own_runs, capsys
):
    runs = [tiny(), tiny(template="reverse"), tiny(seed=1)]
    assert train_missing([*runs, runs[0]], device="cpu", how="a test") == 0
    found = records(own_runs)
    assert set(found) == {run.id for run in runs}
    for run in runs:
        assert outcome(found[run.id]) == straight(run, digits)
        provenance = found[run.id].provenance
        assert (provenance["device_type"], provenance["how"]) == ("cpu", "a test")
        assert (provenance["compiled"], provenance["packed"]) == (False, 1)
        assert provenance["sessions"] == 1
        assert provenance["seconds"] > 0
        assert provenance["torch"] == torch.__version__
    left = {path.suffix for path in (own_runs / "unfinished").iterdir()}
    assert left <= {".lock"}  # neither checkpoints nor failures
    files = {path: path.stat().st_mtime_ns for path in own_runs.glob("*.json")}
    capsys.readouterr()
    assert train_missing(runs) == 0
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in own_runs.glob("*.json")} == files


def test_deleting_one_record_trains_just_that_one(tiny, own_runs, capsys):
    runs = [tiny(), tiny(template="reverse")]
    train_missing(runs)
    before = records(own_runs)
    before[runs[1].id].path.unlink()
    capsys.readouterr()
    assert train_missing(runs) == 0
    assert trained(capsys.readouterr().out) == [describe(runs[1])]
    after = records(own_runs)
    assert after[runs[0].id] == before[runs[0].id]
    assert outcome(after[runs[1].id]) == outcome(before[runs[1].id])


def test_shipped_and_copied_records_are_not_trained_again(
    tiny, own_runs, tmp_path, monkeypatch, capsys
):
    shipped, copied = tiny(), tiny(seed=1)
    provenance = {"device_type": "cuda", "finished": "2026-03-01T12:00:00+00:00"}
    monkeypatch.setattr("fredist.runs.RESULTS", tmp_path / "results")
    write_record(shipped, {"test_top1": 50.0}, {}, provenance, tmp_path / "results")
    own_runs.mkdir()
    shutil.copy(write_record(copied, {"test_top1": 5.0}, {}, provenance, tmp_path / "x"), own_runs)
    assert train_missing([shipped, copied]) == 0
    assert capsys.readouterr().out == ""
    assert len(Store().collect([shipped, copied])) == 2


# -- in which order, and for how long


def test_seeds_in_order_and_the_longest_first_after_an_estimate(tiny, capsys):
    short, long = {"epochs": 1, "lr_steps": ()}, {"epochs": 3, "lr_steps": ()}
    order = [tiny(seed=seed, **length) for seed in (0, 1) for length in (long, short)]
    train_missing(order[::-1])
    first, *lines = capsys.readouterr().out.splitlines()
    name = re.escape(device_name(CPU))
    assert re.fullmatch(rf"training 4 runs on {name}, estimated [\d.]+ (s|min|h)", first)
    assert [line.split("]")[0] for line in lines] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    times = [Store().find(run).path.stat().st_mtime_ns for run in order]
    assert times == sorted(times)


def test_larger_and_longer_runs_are_estimated_longer(tiny):
    small, middle, large = (tiny(width=width) for width in (1, 4, 16))
    longer = tiny(epochs=30)
    more = tiny(reduction=Reduction(0.05, 1280, 100))
    other = tiny("mobilenet")
    before = torch.get_rng_state()
    seconds = estimate([middle, large, small, longer, more, other], CPU)
    assert torch.equal(before, torch.get_rng_state())
    assert set(seconds) == {small, middle, large, longer, more, other}
    assert all(value > 0 for value in seconds.values())
    assert seconds[small] < seconds[middle] < seconds[large]
    assert seconds[longer] == pytest.approx(10 * seconds[small])
    assert seconds[more] == pytest.approx(8 * seconds[small])


@pytest.mark.parametrize(
    ("changed", "words"),
    [({}, ""), ({"width": 0.5}, " width 0.5"), ({"seed": 3, "template": "uniform"}, "")],
)
def test_a_run_in_words(tiny, changed, words):
    run = tiny(**changed)
    assert describe(run) == f"digits vgg19 {run.template}{words} seed {run.seed}"


def test_a_limit_stops_in_time_and_the_next_call_finishes(tiny, digits, own_runs, capsys):
    runs = [tiny(epochs=8, lr_steps=(5, 7)), tiny("mobilenet")]
    assert train_missing(runs, minutes=1e-6) == 2
    shown = capsys.readouterr().out
    assert "time is up: 2 of 2 runs left; call again" in shown
    assert "no epoch was finished in that time, and none will be" in shown
    assert not records(own_runs)
    minutes = 0.005
    while train_missing(runs, minutes=minutes):  # each time from where it stopped
        minutes *= 1.5
        assert minutes < 5
    found = records(own_runs)
    assert [outcome(found[run.id]) for run in runs] == [straight(run, digits) for run in runs]


class Terminal(io.StringIO):
    """A standard output that a person watches."""

    def isatty(self):
        return True


def test_the_bar_never_goes_back_and_ends_full(tiny, monkeypatch):
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    monkeypatch.delenv("FREDIST_PLAIN")
    with pytest.raises(TrainingFailed):
        train_missing([tiny(epochs=40, lr_steps=()), tiny(lr=1e6, epochs=40)])
    text = shown.getvalue()
    percents = [int(number) for number in re.findall(r"(\d+)%\|", text)]
    assert percents[0] == 0
    assert percents == sorted(percents)
    assert percents[-1] == 100  # a failed run is over, too
    assert len(set(percents)) > 5  # it moves with the epochs
    assert describe(tiny()) in text
    assert "[2/2] " in text


# -- failures


def test_a_failure_is_recorded_and_the_others_are_done(tiny, own_runs, capsys):
    bad, good = tiny(lr=1e6, epochs=4), tiny(template="reverse", epochs=1, lr_steps=())
    with pytest.raises(TrainingFailed, match=rf"1 of 2 runs failed; .*{bad.name}\.failed\.json"):
        train_missing([bad, good])
    assert sorted(trained(capsys.readouterr().out)) == sorted([describe(bad), describe(good)])
    assert set(records(own_runs)) == {good.id}
    failure = json.loads(unfinished(own_runs, bad, "failed.json").read_text())
    assert failure["run"] == describe(bad)
    assert "Diverged: the loss of epoch 1 is" in failure["traceback"]
    with filelock.FileLock(unfinished(own_runs, bad, "lock"), timeout=0):
        pass  # is free again
    with pytest.raises(TrainingFailed, match="1 of 1 runs failed"):
        train_missing([bad, good])


def test_after_its_cause_is_mended_a_failure_is_gone(tiny, digits, own_runs):
    run = tiny()
    checkpoint, failure = (unfinished(own_runs, run, kind) for kind in ("pt", "failed.json"))
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(TrainingFailed, match=re.escape(failure.name)):
        train_missing([run])
    assert "delete it to start the run anew" in failure.read_text()
    assert not records(own_runs)
    checkpoint.unlink()
    assert train_missing([run]) == 0
    assert not failure.exists()
    assert outcome(records(own_runs)[run.id]) == straight(run, digits)


def test_training_needs_only_torch_and_timm():
    """The plain command's modules import where no other package of ours is."""
    others = ["pandas", "pyarrow", "seaborn", "matplotlib", "sklearn", "papermill", "nbformat"]
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in [*others, "IPython"])
    code = f"import sys; {blocked}; import fredist.__main__, fredist.sweep"
    subprocess.run([sys.executable, "-c", code], check=True)
