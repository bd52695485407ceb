"""Training for real, in seconds: what it learns, what it leaves alone, and how it goes on."""

import re
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fredist.augment import ResidentImages, channel_statistics
from fredist.data import subset
from fredist.models import FAMILIES
from fredist.recipes import Recipe, Reduction
from fredist.train import (
    Diverged,
    OutOfTime,
    build,
    choose_device,
    evaluate,
    make_optimizer,
    train,
    train_epoch,
)


class Stop(Exception):
    """The test stops the run here."""


def stop(epoch):
    raise Stop


def outcome(run, images, **how):
    """Return results and history, which an uninterrupted and a continued run share."""
    results, progress = train(run, images, **how)
    return results, progress.history


def assert_same_state(one, two):
    """Compare two checkpoints' weights, statistics and momenta, bit by bit."""
    one, two = (torch.load(path, weights_only=True) for path in (one, two))
    assert list(one["model"]) == list(two["model"])
    for name, value in one["model"].items():
        assert torch.equal(value, two["model"][name]), name
    momenta = [state["optimizer"]["state"] for state in (one, two)]
    assert list(momenta[0]) == list(momenta[1])
    assert len(momenta[0]) > 0
    for key, state in momenta[0].items():
        assert torch.equal(state["momentum_buffer"], momenta[1][key]["momentum_buffer"])


# -- what it learns


def test_the_loss_falls_and_the_test_images_are_recognised(tiny, digits):
    easy = {"reduction": Reduction(0.1, 400, 200), "epochs": 4, "lr_steps": (3,)}
    run = tiny(template="uniform", batch_size=16, lr=0.02, **easy)
    results, progress = train(run, digits)
    loss = progress.history["loss"]
    assert loss[-1] < 0.8 * loss[0]
    assert loss[0] < 5
    assert results["test_top1"] > 30  # chance is 10
    assert results["test_top5"] > 70  # chance is 50


def test_what_a_run_returns(tiny, digits):
    run = tiny()
    results, progress = train(run, digits)
    names = {"test_top1", "test_top5", "train_top1", "test_images", "train_images"}
    assert set(results) == names
    assert 0 <= results["test_top1"] <= results["test_top5"] <= 100
    assert (results["train_images"], results["test_images"]) == (160, 100)
    assert set(progress.history) == {"loss", "train_top1"}
    assert all(len(values) == 3 for values in progress.history.values())
    assert results["train_top1"] == progress.history["train_top1"][-1]
    assert (progress.epoch, progress.sessions) == (3, 1)
    assert 0 < progress.seconds < 600


def test_the_same_run_gives_the_same_and_another_seed_another(tiny, digits):
    before = torch.get_rng_state()
    first = outcome(tiny(), digits)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)  # which training neither reads nor changes
    assert outcome(tiny(), digits) == first
    assert outcome(tiny(seed=1), digits)[1] != first[1]


def test_images_are_flipped_only_where_left_is_not_right(tiny, digits):
    short = {"epochs": 1, "lr_steps": ()}
    plain = outcome(tiny(flip=False, **short), digits)
    assert outcome(tiny(flip=True, **short), digits) == plain  # digits: never
    natural = replace(digits, flip=True)
    assert outcome(tiny(flip=False, **short), natural) == plain
    assert outcome(tiny(flip=True, **short), natural)[1] != plain[1]


def test_pixels_are_normalised_over_the_whole_training_set(tiny, digits):
    run = tiny(epochs=1, lr_steps=())
    part = subset(digits, 160, 100)
    chosen = {image.numpy().tobytes() for image in part.train_images}
    left_out = torch.tensor([i.numpy().tobytes() not in chosen for i in digits.train_images])
    images = digits.train_images.clone()
    images[left_out] = 255
    assert left_out.any()
    brighter = replace(digits, train_images=images)
    assert torch.equal(subset(brighter, 160, 100).train_images, part.train_images)
    assert outcome(run, brighter)[1] != outcome(run, digits)[1]


# -- one epoch against the textbook


def small_images(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, n))
    mean, std = torch.full((3,), 120.0), torch.full((3,), 70.0)
    return ResidentImages(images, labels, mean, std, "cpu")


def linear(classes):
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))


@pytest.mark.parametrize("classes", [3, 5, 12])
def test_accuracies_are_those_of_sorting_the_scores(classes):
    images, model = small_images(1203, classes), linear(classes)
    x = (images.images.numpy().transpose(0, 3, 1, 2).reshape(1203, -1) - 120.0) / 70.0
    weight, bias = (p.detach().double().numpy() for p in model.parameters())
    ranked = np.argsort(-(x @ weight.T + bias), axis=1)
    hits = ranked == images.labels.numpy()[:, None]
    top1, top5 = evaluate(model, images, Recipe())
    assert top1 == pytest.approx(100 * hits[:, 0].mean(), abs=1e-9)
    assert top5 == pytest.approx(100 * hits[:, :5].any(1).mean(), abs=1e-9)
    assert top5 >= top1
    assert classes > 5 or top5 == 100


def test_evaluating_changes_nothing(tiny):
    model, images = build(tiny()), small_images(64, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    big = ResidentImages(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), images.labels[:8], *[
        torch.ones(3)] * 2, "cpu")  # fmt: skip
    assert evaluate(model, big, Recipe()) == evaluate(model, big, Recipe())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_epoch_is_nesterov_sgd_and_its_numbers_are_means_over_images():
    recipe = Recipe(lr=0.02, lr_steps=(1,), momentum=0.8, weight_decay=0.01, epochs=2)
    images, model = small_images(10, 4), linear(4)
    weights = [p.detach().clone() for p in model.parameters()]
    optimizer = make_optimizer(model, recipe)
    velocity = [torch.zeros_like(w) for w in weights]
    for epoch, lr in ((0, 0.02), (1, 0.002)):
        losses, hits = [], []
        for x, y in images.plain(4):  # 4, 4 and 2
            weights = [w.requires_grad_() for w in weights]
            logits = x.flatten(1) @ weights[0].T + weights[1]
            losses += cross_entropy(logits, y, reduction="none").tolist()
            hits += (logits.argmax(1) == y).tolist()
            gradients = torch.autograd.grad(cross_entropy(logits, y), weights)
            weights = [w.detach() for w in weights]
            for i, gradient in enumerate(gradients):
                decayed = gradient + 0.01 * weights[i]
                velocity[i] = 0.8 * velocity[i] + decayed
                weights[i] = weights[i] - lr * (decayed + 0.8 * velocity[i])
        loss, top1 = train_epoch(model, optimizer, images.plain(4), recipe, epoch)
        assert loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert top1 == pytest.approx(100 * np.mean(hits))
        for ours, theirs in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-6)


def test_a_run_is_its_epochs_in_order_and_one_evaluation(tiny, digits):
    run = tiny(seed=5, pad=2, lr_steps=(1, 2))
    part, statistics = subset(digits, 160, 100), channel_statistics(digits.train_images)
    train_set = ResidentImages(part.train_images, part.train_labels, *statistics, "cpu")
    test_set = ResidentImages(part.test_images, part.test_labels, *statistics, "cpu")
    model = build(run)
    optimizer = make_optimizer(model, run.recipe)
    history = []
    for epoch in range(3):
        batches = train_set.augmented(32, 5, epoch, padding=2, flip=False)
        history.append(train_epoch(model, optimizer, batches, run.recipe, epoch))
    results, found = outcome(run, digits)
    assert list(zip(found["loss"], found["train_top1"], strict=True)) == history
    assert (results["test_top1"], results["test_top5"]) == evaluate(model, test_set, run.recipe)


# -- stopped and continued


@pytest.mark.parametrize("model", ["vgg19", "mobilenet"])
def test_stopped_after_each_epoch_it_ends_the_same(tiny, digits, tmp_path, model):
    run, whole, parts = tiny(model), tmp_path / "whole.pt", tmp_path / "parts.pt"
    expected = outcome(run, digits, checkpoint=whole)
    for _ in range(3):  # the last time after the last epoch
        with pytest.raises(Stop):
            train(run, digits, checkpoint=parts, on_epoch=stop)
    epochs = []
    results, progress = train(run, digits, checkpoint=parts, on_epoch=epochs.append)
    assert epochs == []  # only the evaluation was left
    assert (results, progress.history) == expected
    assert (progress.epoch, progress.sessions) == (3, 4)
    assert_same_state(whole, parts)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".pt"] == []


def test_stopped_within_an_epoch_it_ends_the_same(tiny, digits, tmp_path):
    run, whole, parts = tiny(), tmp_path / "whole.pt", tmp_path / "parts.pt"
    expected = outcome(run, digits, checkpoint=whole)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(
                run,
                digits,
                checkpoint=parts,
                on_epoch=lambda epoch: signal.setitimer(signal.ITIMER_REAL, 0.01),
            )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert torch.load(parts, weights_only=True)["progress"]["epoch"] < 3
    assert outcome(run, digits, checkpoint=parts) == expected
    assert_same_state(whole, parts)


def test_past_the_deadline_nothing_is_trained_or_lost(tiny, digits, tmp_path):
    run, checkpoint = tiny(), tmp_path / "new" / "run.pt"
    past = time.monotonic() - 1
    with pytest.raises(OutOfTime):
        train(run, digits, checkpoint=checkpoint, deadline=past)
    assert not checkpoint.exists()
    with pytest.raises(Stop):
        train(run, digits, checkpoint=checkpoint, on_epoch=stop)
    kept = checkpoint.read_bytes()
    with pytest.raises(OutOfTime):
        train(run, digits, checkpoint=checkpoint, deadline=past)
    assert checkpoint.read_bytes() == kept
    assert outcome(run, digits, checkpoint=checkpoint) == outcome(run, digits)


def test_a_checkpoint_is_kept_after_every_epoch(tiny, digits, tmp_path):
    checkpoint, seen = tmp_path / "run.pt", []

    def look(epoch):
        state = torch.load(checkpoint, weights_only=True)
        seen.append((epoch, state["progress"]["epoch"], len(state["progress"]["history"]["loss"])))

    train(tiny(), digits, checkpoint=checkpoint, on_epoch=look)
    assert seen == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_named(tiny, digits, tmp_path, content):
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Stop):
        train(tiny(), digits, checkpoint=checkpoint, on_epoch=stop)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2] if content is None else content)
    message = rf"expected a checkpoint in {re.escape(str(checkpoint))}, but it cannot be read"
    with pytest.raises(ValueError, match=rf"(?s){message}.*delete it to start"):
        train(tiny(), digits, checkpoint=checkpoint)


def test_another_runs_checkpoint_is_refused(tiny, digits, tmp_path):
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Stop):
        train(tiny(), digits, checkpoint=checkpoint, on_epoch=stop)
    other = tiny(seed=1)
    with pytest.raises(ValueError, match=f"a checkpoint of run {other.id} in .*got {tiny().id}"):
        train(other, digits, checkpoint=checkpoint)


# -- what is refused


def test_other_data_than_the_runs_are_refused(tiny, digits):
    other = replace(digits, fingerprint="0" * 16)
    with pytest.raises(ValueError, match=f"fingerprint {digits.fingerprint}, got digits with 0000"):
        train(tiny(), other)


def test_a_batch_of_one_image_is_refused(tiny, digits):
    with pytest.raises(ValueError, match="161 images in batches of 32 leave a last one of 1"):
        train(tiny(reduction=Reduction(0.05, 161, 100)), digits)


def test_a_run_whose_filters_are_built_otherwise_is_refused(tiny):
    run = replace(tiny(), filters=tiny().filters[::-1])
    with pytest.raises(ValueError, match=r"expected vgg19 base with filters \(26, .*builds \(3, "):
        build(run)


def test_a_loss_that_is_no_number_stops_the_run(tiny, digits, tmp_path):
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Diverged, match=r"the loss of epoch 1 is (nan|inf): try a lower learning"):
        train(tiny(lr=1e6), digits, checkpoint=checkpoint)
    assert not checkpoint.exists()


def test_weights_that_are_no_numbers_after_the_last_step_stop_the_run():
    model, images, recipe = linear(4), small_images(10, 4), Recipe(lr=1e38, weight_decay=0.0)
    with torch.no_grad():
        images.mean -= 1e4  # so that the gradients are large, and the one loss is a number
    optimizer = make_optimizer(model, recipe)
    with pytest.raises(Diverged, match="weights are not finite after epoch 3: try a lower learni"):
        train_epoch(model, optimizer, images.plain(10), recipe, 2)


def test_a_device_that_is_not_there_is_named():
    before = torch.get_rng_state()
    assert choose_device("cpu").type == "cpu"
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(RuntimeError, match=r"convolution, but cuda:99 with PyTorch .* cannot: .*"):
        choose_device("cuda:99")


# -- networks


@pytest.mark.parametrize("model", FAMILIES)
def test_a_network_is_a_function_of_its_seed_alone(tiny, model):
    before = torch.get_rng_state()
    first = build(tiny(model, seed=1)).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(7)
    again, other = build(tiny(model, seed=1)), build(tiny(model, seed=2)).state_dict()
    assert all(torch.equal(value, first[name]) for name, value in again.state_dict().items())
    drawn = [name for name, value in first.items() if value.dim() == 4]
    assert drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    before = torch.get_rng_state()  # nor does it draw anything when it is trained
    again.train()(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("model", FAMILIES)
def test_pytorchs_initialisation_is_that_of_its_layers(tiny, model):
    theirs, ours = (build(tiny(model, initialisation=kind)) for kind in ("pytorch", "timm"))
    beyond, count = 0, 0
    for (name, layer), other in zip(theirs.named_modules(), ours.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = layer.weight[0].numel() ** -0.5  # uniform up to 1 / sqrt(fan in)
            assert layer.weight.abs().max() <= bound * 1.000001, name
            beyond += (other.weight.abs() > bound).sum().item()
            count += other.weight.numel()
    assert beyond > 0.01 * count  # timm draws normal numbers, or others of another scale
    again = build(tiny(model, initialisation="pytorch")).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in theirs.state_dict().items())


def test_bfloat16_trains_on_the_cpu(tiny, digits):
    short = {"epochs": 1, "lr_steps": ()}
    (results, half), (_, single) = (
        outcome(tiny(precision=precision, **short), digits) for precision in ("bfloat16", "float32")
    )
    assert results["test_top5"] >= results["test_top1"]
    assert half["loss"] != single["loss"]
    assert half["loss"] == pytest.approx(single["loss"], rel=0.05)


def test_the_memory_format_reaches_the_weights(tiny):
    for name, kind in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        weights = [p for p in build(tiny(memory_format=name)).parameters() if p.dim() == 4]
        assert all(weight.is_contiguous(memory_format=kind) for weight in weights)
