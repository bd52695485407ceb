"""What only a GPU can show, in under two minutes on one: `make gpu-check`; skipped without."""

import warnings
from dataclasses import replace

import pytest
import torch
from test_train import LAYOUTS, Stop, assert_same_state, outcome, stop, tiny

from fredist import steps
from fredist.batches import ResidentImages
from fredist.data import subset
from fredist.device import choose_device, describe, empty_cache, numerics, synchronize
from fredist.jobs import make
from fredist.measure import measure, wanted
from fredist.networks import FAMILIES, make_network
from fredist.records import Store
from fredist.steps import Steps, make_optimizer, train_step
from fredist.train import build, evaluate, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use"),
]


@pytest.fixture(scope="module")
def gpu():
    """Return the GPU, after what a user may have done with it: a product, and TF32 allowed."""
    device = choose_device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
    yield device
    torch.backends.cuda.matmul.allow_tf32 = False


def test_the_record_names_the_gpu_and_its_software(gpu):
    made = describe(gpu)
    assert made["device_type"] == "cuda"
    assert made["device"] == torch.cuda.get_device_name(gpu)
    assert made["threads"] is None
    assert made["cudnn"]
    assert made["driver"] or torch.version.hip


@pytest.mark.parametrize(("precision", "memory_format"), LAYOUTS)
def test_a_run_trains_to_its_end_stops_and_continues_bit_equal(
    gpu, digits, tmp_path, precision, memory_format
):
    how = {"epochs": 4, "lr_steps": [3], "batch_size": 8, "lr": 0.02, "evaluate_train": True}
    how |= {"precision": precision, "memory_format": memory_format, "images": (320, 200)}
    run = tiny("mobilenet", "uniform", **how)
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    expected = outcome(run, digits, device=gpu, checkpoint=whole)
    assert expected[0]["top1_last"] > 30  # chance is 10
    with pytest.raises(Stop):
        train(run, digits, gpu, checkpoint=parts, on_epoch=stop)
    assert outcome(run, digits, device=gpu, checkpoint=parts) == expected
    assert_same_state(whole, parts)


@pytest.mark.parametrize(("precision", "memory_format"), LAYOUTS)
def test_a_graph_does_what_plain_steps_do(gpu, digits, monkeypatch, precision, memory_format):
    how = {"precision": precision, "memory_format": memory_format, "batch_size": 8}
    run, used = tiny("mobilenet", "uniform", images=(324, 50), **how), []
    plain = Steps._graph
    monkeypatch.setattr(Steps, "_graph", lambda *given: used.append(plain(*given)) or used[-1])
    by_graph = outcome(run, digits, device=gpu)
    assert len(used) == 2  # one for each rate; the last batch of 4 comes too rarely
    assert all(used)
    monkeypatch.setattr(steps, "WORTH", 10**6)
    assert outcome(run, digits, device=gpu) == by_graph
    assert len(used) == 2


def batch(model, layout, gpu):
    """Return a run of a quarter of a network, or of Table 2's, and a batch for it."""
    if model == "Table 2's head":
        network, size = make_network("vgg19", width=0.25, num_classes=200, head="flatten7x7"), 64
    else:
        network, size = make_network(model, width=0.25), 32
    torch.manual_seed(0)
    x = torch.randn(64, 3, size, size).to(gpu)
    y = torch.randint(network.num_classes, (64,)).to(gpu)
    return replace(tiny(precision=layout[0], memory_format=layout[1]), network=network), x, y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [*FAMILIES, "Table 2's head"])
def test_every_network_trains_by_a_graph(gpu, model, layout):
    """The step of each can be captured, and does what a plain one does: else a warning fails it."""
    run, x, y = batch(model, layout, gpu)
    with numerics(run.recipe, gpu), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = build(run, gpu).train()
        taken = Steps(model, make_optimizer(model, run.recipe), run.recipe)
        for _ in range(steps.WORTH + 1):
            taken(x, y)
        assert all(taken.graphs.values())
        assert len(taken.graphs) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", [*FAMILIES, "Table 2's head"])
def test_every_network_trains_deterministically(gpu, model, layout):
    """Strictly: an operation without a deterministic form is an error."""
    (run, x, y), states = batch(model, layout, gpu), []
    with numerics(run.recipe, gpu):
        for _ in range(3):
            model = build(run, gpu).train()
            optimizer = make_optimizer(model, run.recipe)
            for _ in range(4):
                train_step(model, optimizer, x, y, run.recipe)
            states.append(model.state_dict())
    for state in states[1:]:
        assert all(torch.equal(value, state[name]) for name, value in states[0].items())


@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
def test_the_gpu_sees_the_cpus_images(gpu, digits, augmentation):
    run = tiny(augmentation=augmentation)
    how = {"augmentation": augmentation, "pad": run.recipe.pad, "flip": True}
    for kind in ("plain", "augmented"):
        batches = []
        for device in (torch.device("cpu"), gpu):
            images = ResidentImages(
                digits.test_images, digits.test_labels, *run.normalisation, device
            )
            of = images.plain(90) if kind == "plain" else images.augmented(90, 0, 3, **how)
            batches.append([(x.cpu(), y.cpu()) for x, y in of])
        for (x, y), (other, label) in zip(*batches, strict=True):
            torch.testing.assert_close(x, other, rtol=1e-6, atol=1e-6)
            assert torch.equal(y, label)


@pytest.mark.parametrize("model", FAMILIES)
def test_the_gpu_computes_what_the_cpu_does(gpu, digits, model):
    """In float32, without the TF32 that was allowed: with it the first scores differ by 1e-3."""
    run, found = tiny(model, batch_size=64, lr=0.01), []
    part = subset(digits, 128, 100)
    for device in (torch.device("cpu"), gpu):
        how = (*run.normalisation, device)
        images = ResidentImages(part.train_images, part.train_labels, *how)
        tests = ResidentImages(part.test_images, part.test_labels, *how)
        with numerics(run.recipe, device):
            network = build(run, device).train()
            optimizer = make_optimizer(network, run.recipe)
            crops = {"augmentation": "pad_crop", "pad": 4, "flip": False}
            made = [
                train_step(network, optimizer, x, y, run.recipe)
                for x, y in images.augmented(64, 0, 0, **crops)
            ]
            top1, _ = evaluate(network, tests, run.recipe)
        found.append(
            ([scores.cpu() for scores, _ in made], [loss.item() for _, loss in made], top1)
        )
    (scores, losses, top1), (ours, theirs, other) = found
    torch.testing.assert_close(ours[0], scores[0], rtol=3e-4, atol=3e-4)
    assert theirs == pytest.approx(losses, rel=1e-2)
    assert other == pytest.approx(top1, abs=5)


def test_one_network_is_measured(gpu):
    network = make_network("vgg19", "quadratic", width=0.25)
    for job in wanted(network, device=gpu):
        results = measure(job, gpu)
        assert results
        assert all(value > 0 for value in results.values()), (job, results)
        if job.method == "synchronised":
            assert results["min_ms"] <= results["median_ms"] <= results["max_ms"]
        if "reserved_peak_bytes" in results:
            assert results["reserved_peak_bytes"] >= results["allocated_peak_bytes"]


def test_an_epoch_never_waits_for_the_gpu(gpu, digits):
    run, part = tiny("mobilenet", batch_size=32), subset(digits, 320, 100)
    images = ResidentImages(part.train_images, part.train_labels, *run.normalisation, gpu)
    with numerics(run.recipe, gpu):
        model = build(run, gpu).train()
        optimizer = make_optimizer(model, run.recipe)
        crops = {"augmentation": "pad_crop", "pad": 4, "flip": True}
        for batch in images.augmented(32, 0, 0, **crops):  # makes momenta, chooses algorithms
            train_step(model, optimizer, *batch, run.recipe)
        batches = images.augmented(32, 0, 1, **crops)
        first = next(batches)  # after the one transfer of an epoch
        synchronize(gpu)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in (first, *batches):
                train_step(model, optimizer, *batch, run.recipe)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_out_of_memory_in_one_job_does_not_end_the_others(gpu, tmp_path, monkeypatch):
    for name in ("RUNS", "LOCKS"):
        monkeypatch.setenv(f"FREDIST_{name}", str(tmp_path / name))
    short = {"epochs": 1, "lr_steps": []}
    too_large = tiny("vgg19", batch_size=1024, images=(1024, 50), **short)
    too_large = replace(too_large, network=make_network("vgg19"))
    runs = [too_large, tiny("vgg19", **short), tiny("mobilenet", **short)]
    empty_cache(gpu)
    kept = torch.cuda.memory_allocated()  # by an older PyTorch for cuBLAS
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction(1e9 / total)  # a card of 1 GB
    try:
        outcome = make(runs, device="cuda")
        assert torch.cuda.memory_allocated() - kept < 2e8  # what failed has let go
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (outcome.made, outcome.left) == (2, 0)
    assert [Store().find(run) is not None for run in runs] == [False, True, True]
