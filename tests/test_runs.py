"""Runs as values, and their records: what is hashed, what is refused, which one is taken."""

import copy
import hashlib
import json
import math
import re
import shutil
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest

from fredist.data import DATASETS
from fredist.experiments import table1
from fredist.models import FAMILIES
from fredist.recipes import PROFILES, Reduction
from fredist.runs import RecordError, Store, canonical, make_run, read_record, write_record
from fredist.templates import TEMPLATES

RESULTS = {"test_top1": 51.25, "test_top5": 93.5, "train_top1": 48.0}
HISTORY = {"loss": [2.5, 1.75], "train_top1": [20.0, 48.0]}
OLD, NEW = "2026-03-01T12:00:00+00:00", "2026-03-02T09:00:00+00:00"


def written(run, folder, top1=51.25, device="cpu", finished=OLD):
    """Write a record as a machine with that device would have; return its path."""
    provenance = {"device_type": device, "finished": finished}
    return write_record(run, RESULTS | {"test_top1": top1}, HISTORY, provenance, folder)


def with_field(value, name, new):
    """Return a copy with one field changed, whatever the checks of its class."""
    other = copy.copy(value)
    vars(other).pop("id", None)  # a run keeps its hash
    object.__setattr__(other, name, new)
    return other


def something_else(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return value[1:]
    return 7 if value is None else value + 1


# -- the identity of a run


def test_the_id_changes_with_every_single_field(tiny):
    run = tiny()
    others = {}
    for part in ("recipe", "reduction"):
        inner = getattr(run, part)
        for field in fields(inner):
            new = something_else(getattr(inner, field.name))
            others[part, field.name] = with_field(run, part, with_field(inner, field.name, new))
    for field in fields(run):
        if field.name not in ("recipe", "reduction"):
            new = something_else(getattr(run, field.name))
            others[field.name] = with_field(run, field.name, new)
    assert len(others) == sum(len(fields(part)) for part in (run, run.recipe, run.reduction)) - 2
    ids = {name: other.id for name, other in others.items()}
    assert len({run.id, *ids.values()}) == 1 + len(ids), ids
    assert run.id == replace(run).id == copy.deepcopy(run).id


def test_the_ids_of_shipped_results_stay():
    # Another id here means that no result shipped so far is found again.
    for profile, model, template, golden in (
        ("paper", "vgg19", "base", "137c49ab9d93"),
        ("narrow", "vgg19", "base", "533a8f0706e8"),
        ("narrow", "inception", "negative_quadratic", "13266032a438"),
    ):
        run = make_run(PROFILES[profile], "cifar10", model, template)
        assert run.id == golden
        assert run.name == f"{model}-{template}-{golden}"


def test_runs_of_all_profiles_and_data_sets_have_ids_of_their_own():
    known = [name for name, info in DATASETS.items() if info.fingerprint]
    runs = [run for profile in PROFILES for run in table1(profile, known)]
    assert len({run.id for run in runs}) == len(set(runs)) == len(runs)
    assert all(re.fullmatch("[0-9a-f]{12}", run.id) for run in runs)


def test_a_whole_number_as_width_is_the_same_run(tiny):
    assert tiny(width=1).id == tiny(width=1.0).id
    assert tiny(width=1) == tiny()
    assert tiny(width=0.5).id != tiny().id


def test_where_the_published_convention_changes_nothing_the_run_is_the_equations():
    profile, changed = PROFILES["paper"], set()
    for model in FAMILIES:
        for template in TEMPLATES:
            run = make_run(profile, "cifar10", model, template)
            published = make_run(profile, "cifar10", model, template, convention="published")
            assert (run == published) == (run.filters == published.filters)
            if run != published:
                changed.add((model, template))
    assert changed == {("vgg19", "quadratic"), ("resnet50", "uniform")}


def test_filters_are_those_of_the_width_built():
    wide = make_run(PROFILES["paper"], "cifar10", "resnet50", "base", width=0.5)
    assert wide.filters == (32, 64, 128, 256)
    half = replace(PROFILES["paper"], reduction=Reduction(width_factor=0.5))
    narrow = make_run(half, "cifar10", "resnet50", "base")
    assert narrow.filters == wide.filters
    assert narrow.id != wide.id
    assert make_run(half, "cifar10", "resnet50", "base", width=0.5).filters == (16, 32, 64, 128)


def test_options_are_part_of_a_run_and_unknown_ones_are_errors():
    profile = PROFILES["paper"]
    plain = make_run(profile, "cifar10", "vgg19", "base")
    assert plain == make_run(profile, "cifar10", "vgg19", "base", head="pool")
    assert plain != make_run(profile, "cifar10", "vgg19", "base", head="flatten7x7")
    for name, wrong in {"model": "vgg", "template": "flat", "convention": "printed"}.items():
        with pytest.raises(ValueError, match=f"unknown {name} '{wrong}'.*choose from"):
            make_run(profile, "cifar10", **({"model": "vgg19", "template": "base"} | {name: wrong}))


def test_a_run_is_frozen_and_hashable(tiny):
    run = tiny()
    for field in fields(run):
        with pytest.raises(FrozenInstanceError):
            setattr(run, field.name, None)
    assert {run: 1}[tiny()] == 1


# -- records


def test_a_record_comes_back_as_written(tiny, own_runs):
    run = tiny("inception")  # whose filters are nested
    provenance = {"device_type": "cpu", "finished": OLD, "seconds": 1.5}
    path = write_record(run, RESULTS, HISTORY, provenance)
    record = read_record(path)
    assert (record.results, record.history, record.provenance) == (RESULTS, HISTORY, provenance)
    assert record.run == json.loads(json.dumps(asdict(run)))
    assert (record.run_id, record.path, record.on_cuda) == (run.id, path, False)
    assert list(own_runs.iterdir()) == [path]
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert path.name == f"inception-base-{run.id}-{content}.json"
    assert json.loads(path.read_text())["schema"] == 1


def test_writing_the_same_again_is_one_file(tiny, own_runs):
    assert written(tiny(), own_runs) == written(tiny(), own_runs)
    assert len(list(own_runs.iterdir())) == 1


def test_a_number_that_is_none_is_not_written(tiny, own_runs):
    with pytest.raises(ValueError, match="not JSON compliant"):
        written(tiny(), own_runs, top1=math.nan)
    assert not own_runs.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b"51.25", b"51.26"),
        lambda text: text.replace(b"1.75", b"1.74"),
        lambda text: text.replace(b'"seed": 0', b'"seed": 1'),
        lambda text: text.replace(b"cpu", b"gpu"),
        lambda text: text[: len(text) // 2],
        lambda text: text + b"\n",
        lambda text: b"",
    ],
)
def test_a_changed_digit_is_an_error_that_names_the_file(tiny, own_runs, damage):
    path = written(tiny(), own_runs)
    text = path.read_bytes()
    assert damage(text) != text
    path.write_bytes(damage(text))
    message = rf"expected content with hash \w+ in {re.escape(str(path))}, got .*restore it, or de"
    with pytest.raises(RecordError, match=message):
        read_record(path)
    with pytest.raises(RecordError, match=message):
        Store().find(tiny())
    with pytest.raises(RecordError, match=message):
        Store().collect([tiny(seed=1), tiny()])
    assert Store().find(tiny(seed=1)) is None  # other runs are not held up


def forged(path, change):
    """Write a record with changed content under the name that fits it; return its path."""
    content = json.loads(path.read_text())
    change(content)
    text = json.dumps(content).encode()
    name = re.sub(r"\w+\.json$", hashlib.sha256(text).hexdigest()[:12] + ".json", path.name)
    path.with_name(name).write_bytes(text)
    return path.with_name(name)


def test_a_record_under_another_runs_name_is_an_error(tiny, own_runs):
    path = written(tiny(), own_runs)
    other = path.with_name(path.name.replace(tiny().id, tiny(seed=1).id))
    path.rename(other)
    with pytest.raises(RecordError, match=f"expected the run {tiny(seed=1).id} in .*{other.name}"):
        Store().find(tiny(seed=1))
    path = forged(written(tiny(), own_runs), lambda content: content["run"].update(seed=1))
    with pytest.raises(RecordError, match=f"expected the run {tiny().id} in .*{path.name}"):
        read_record(path)


def test_a_record_of_another_schema_is_an_error(tiny, own_runs):
    path = forged(written(tiny(), own_runs), lambda content: content.update(schema=2))
    with pytest.raises(RecordError, match=rf"expected schema 1 in .*{path.name}, got 2"):
        read_record(path)


@pytest.mark.parametrize(
    "name", ["notes.json", "vgg19-base-0123456789ab.json", "vgg19-base-0123-456.json"]
)
def test_a_foreign_file_among_the_records_is_an_error(tiny, own_runs, name):
    written(tiny(), own_runs)
    (own_runs / name).write_text("{}")
    with pytest.raises(RecordError, match=rf"expected a record named .*got .*{name}: move other"):
        Store()


def test_half_written_files_and_other_folders_are_no_records(tiny, own_runs):
    path = written(tiny(), own_runs)
    (own_runs / f".{path.name}.0123.tmp").write_text("{")
    (own_runs / "unfinished").mkdir()
    (own_runs / "unfinished" / "vgg19.failed.json").write_text("{}")
    assert Store().find(tiny()).path.name == path.name


# -- which of several records


def test_without_records_or_folder_nothing_is_found(tiny, own_runs):
    assert Store().find(tiny()) is None
    assert Store([own_runs / "nowhere"]).collect([tiny()]) == {}


def test_cuda_goes_before_cpu_and_then_the_oldest(tiny, own_runs):
    run = tiny()
    written(run, own_runs, 1.0, "cpu", NEW)
    assert Store().find(run).results["test_top1"] == 1.0
    written(run, own_runs, 2.0, "cpu", OLD)
    assert Store().find(run).results["test_top1"] == 2.0
    written(run, own_runs, 3.0, "cuda", NEW)
    assert Store().find(run).results["test_top1"] == 3.0
    written(run, own_runs, 4.0, "cuda", OLD)
    assert Store().find(run).results["test_top1"] == 4.0
    assert len(list(own_runs.iterdir())) == 4
    assert len(Store().collect([run, run])) == 1  # one for each seed, whatever there is


def test_records_are_collected_in_the_order_asked_for(tiny, own_runs):
    runs = [tiny(seed=seed) for seed in (2, 0, 1)]
    for run in (runs[1], runs[0]):
        written(run, own_runs, float(run.seed))
    found = Store().collect([*runs, runs[0]])
    assert list(found) == runs[:2]
    assert [record.results["test_top1"] for record in found.values()] == [2.0, 0.0]


def test_records_merge_from_another_machine_by_copying(tiny, own_runs, tmp_path):
    mine, theirs, both = tiny(), tiny("mobilenet"), tiny(template="reverse")
    written(mine, own_runs)
    written(both, own_runs, 1.0)
    for path in (
        written(theirs, tmp_path / "other"),
        written(both, tmp_path / "other", 2.0, "cuda"),
    ):
        shutil.copy(path, own_runs)
    found = Store().collect([mine, theirs, both])
    assert list(found) == [mine, theirs, both]
    assert found[both].results["test_top1"] == 2.0


def test_shipped_records_count_beside_the_users(tiny, own_runs, tmp_path, monkeypatch):
    monkeypatch.setattr("fredist.runs.RESULTS", tmp_path / "results")
    written(tiny(), tmp_path / "results", 1.0, finished=NEW)
    written(tiny(seed=1), own_runs, 2.0)
    assert len(Store().collect([tiny(), tiny(seed=1)])) == 2
    written(tiny(), own_runs, 3.0, finished=OLD)
    assert Store().find(tiny()).results["test_top1"] == 3.0
    assert Store([tmp_path / "results"]).find(tiny()).results["test_top1"] == 1.0


def test_replicates_are_one_record_for_each_seed_of_the_same_run(tiny, own_runs):
    for seed in (2, 0):
        written(tiny(seed=seed), own_runs, float(seed))
    written(tiny(seed=2), own_runs, 99.0, "cuda")
    for other in (tiny(seed=3, lr=0.1), tiny("mobilenet", seed=4), tiny(seed=5, width=0.5)):
        written(other, own_runs)
    found = Store().replicates(tiny(seed=1))
    assert list(found) == [0, 2]
    assert [record.results["test_top1"] for record in found.values()] == [0.0, 99.0]


def test_the_canonical_text_is_one_for_equal_values():
    assert canonical({"b": (1, 2), "a": None}) == canonical({"a": None, "b": [1, 2]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(math.inf)
