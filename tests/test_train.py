"""Training for real, in seconds: what it learns, what it leaves alone, and how it goes on."""

import copy
import hashlib
import io
import signal
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fredist.batches import ResidentImages, generator
from fredist.data import subset
from fredist.device import describe, numerics
from fredist.measure import tensor_peak
from fredist.networks import FAMILIES, inception, make_network
from fredist.networks.resnet import Shortcut
from fredist.paper import MODELS
from fredist.recipes import PROFILES, Recipe, Setting
from fredist.runs import Run, chance, make_run
from fredist.steps import OutOfTime, RoundedProducts, Steps, _stream, make_optimizer, train_step
from fredist.train import Diverged, _load, build, evaluate, evaluation_batch, train

WIDTHS = {"vgg19": 0.05, "resnet50": 0.0625, "inception": 0.1, "mobilenet": 0.1}


def tiny(model="vgg19", template="base", *, seed=0, images=(64, 50), **changed) -> Run:
    """Return a run on the digits that takes a second or less."""
    recipe = {"epochs": 3, "lr_steps": [2], "batch_size": 32, "lr": 0.05} | changed
    if recipe.get("augmentation") == "resized_crop":
        recipe["pad"] = 0
    train_images, test_images = images
    setting = Setting(
        Recipe(**recipe),
        width_factors=WIDTHS,
        train_images=train_images,
        test_images=test_images,
    )
    return make_run(setting, "digits", model, template, seed=seed)


class Stop(Exception):
    """The test stops the run here."""


def stop(epoch):
    raise Stop


def outcome(run, images, **how):
    """Return what an uninterrupted and a continued run share: all but times."""
    results, history, _ = train(run, images, **how)
    return {k: v for k, v in results.items() if k != "seconds"}, history


def state_of(path):
    digest, _, content = path.read_bytes().partition(b"\n")
    assert hashlib.sha256(content).hexdigest() == digest.decode()
    return torch.load(io.BytesIO(content), weights_only=True)


def rewrite(path, change):
    """Change a checkpoint as a program would, with the right checksum."""
    state = state_of(path)
    change(state)
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    path.write_bytes(digest.encode() + b"\n" + content.getvalue())


def assert_same_state(one, two):
    """Compare two checkpoints' weights, statistics and momenta, bit by bit."""
    one, two = state_of(one), state_of(two)
    assert list(one["model"]) == list(two["model"])
    for name, value in one["model"].items():
        assert torch.equal(value, two["model"][name]), name
    momenta = [state["optimizer"]["state"] for state in (one, two)]
    assert list(momenta[0]) == list(momenta[1])
    assert len(momenta[0]) > 0
    for key, state in momenta[0].items():
        assert torch.equal(state["momentum_buffer"], momenta[1][key]["momentum_buffer"])


# -- what it learns


def test_digits_are_learnt(digits):
    how = {"batch_size": 8, "lr": 0.02, "images": (320, 200)}
    results, history, _ = train(tiny("mobilenet", "uniform", **how), digits)
    assert history["loss"][-1] < 0.9 * history["loss"][0] < 3
    assert results["top1_last"] > chance(10, 200)
    assert results["top5_last"] > chance(10, 200, guesses=5)


def test_what_a_run_returns(digits):
    run, seen = tiny(evaluate_train=True, augmentation="resized_crop"), []
    results, history, sessions = train(run, digits, on_epoch=seen.append)
    assert seen == [1, 2, 3]
    names = ["loss", "train_top1", "test_top1", "test_top5", "train_eval_top1"]
    assert list(history) == names
    assert all(len(values) == 3 for values in history.values())
    assert set(results) == {
        "top1_last", "top5_last", "top1_best", "train_top1_last", "train_top1_best",
        "params", "macs", "train_images", "test_images", "seconds",
    }  # fmt: skip
    assert results["top1_last"] == history["test_top1"][-1]
    assert results["top5_last"] == history["test_top5"][-1] >= results["top1_last"]
    assert results["top1_best"] == max(history["test_top1"])
    assert results["train_top1_last"] == history["train_eval_top1"][-1]
    assert results["train_top1_best"] == max(history["train_eval_top1"])
    assert (results["train_images"], results["test_images"]) == (64, 50)
    assert results["params"] == sum(p.numel() for p in build(run).parameters())
    assert results["macs"] == run.network.macs(32)
    (session,) = sessions
    assert session["epochs"] == [1, 3]
    assert 0 < session["seconds"] == results["seconds"] < 600
    assert describe(torch.device("cpu")).items() <= session.items()


def test_a_run_is_its_recipe_step_by_step(digits):
    run = tiny(seed=5, pad=2, epochs=2, lr_steps=[1])
    part, recipe, expected = subset(digits, 64, 50), run.recipe, {"loss": [], "test": []}
    train_set = ResidentImages(part.train_images, part.train_labels, *run.normalisation, "cpu")
    test_set = ResidentImages(part.test_images, part.test_labels, *run.normalisation, "cpu")
    with numerics(recipe, torch.device("cpu")):
        model = build(run)
        optimizer = make_optimizer(model, recipe)
        for epoch, lr in ((0, 0.05), (1, 0.005)):
            optimizer.param_groups[0]["lr"] = lr
            model.train()
            how = {"augmentation": "pad_crop", "pad": 2, "flip": False}
            batches = train_set.augmented(32, 5, epoch, **how)
            losses = [train_step(model, optimizer, *batch, recipe)[1].item() for batch in batches]
            expected["loss"].append(sum(losses) / 2)
            expected["test"].append(evaluate(model, test_set, recipe))
    _, history = outcome(run, digits)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert list(zip(history["test_top1"], history["test_top5"], strict=True)) == expected["test"]


def test_a_step_is_sgd_with_momentum_and_decay():
    recipe = Recipe(lr=0.02, momentum=0.8, weight_decay=0.01, epochs=2, lr_steps=(1,))
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    x, y = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    weights = [p.detach().clone() for p in model.parameters()]
    velocity = [torch.zeros_like(w) for w in weights]
    optimizer = make_optimizer(model, recipe)
    for _ in range(3):
        weights = [w.requires_grad_() for w in weights]
        loss = cross_entropy(x.flatten(1) @ weights[0].T + weights[1], y)
        gradients = torch.autograd.grad(loss, weights)
        weights = [w.detach() for w in weights]
        velocity = [
            0.8 * v + g + 0.01 * w for v, g, w in zip(velocity, gradients, weights, strict=True)
        ]
        weights = [w - 0.02 * v for w, v in zip(weights, velocity, strict=True)]
        assert train_step(model, optimizer, x, y, recipe)[1].item() == pytest.approx(loss.item())
    for ours, theirs in zip(model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-6)


def test_the_rate_warms_up_step_by_step_and_then_steps_down():
    recipe = Recipe(lr=0.4, warmup_steps=4, epochs=3, lr_steps=(1,))
    rates = [recipe.lr_at(step // 3, step) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.04, 0.04, 0.04])


@pytest.mark.parametrize("classes", [3, 12])
def test_accuracies_are_those_of_sorting_the_scores(classes):
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (1203, 3, 8, 8), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, classes, 1203))
    images = ResidentImages(pixels, labels, (0.5,) * 3, (0.3,) * 3, "cpu")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    with torch.no_grad():
        scores = torch.cat([model(x) for x, _ in images.plain(1203)]).numpy()
        ranked = np.argsort(-scores, axis=1)
        hits = ranked == labels.numpy()[:, None]
        expected = (100 * hits[:, 0].mean(), 100 * hits[:, :5].any(1).mean())
        assert evaluate(model, images, Recipe()) == pytest.approx(expected)
        assert classes > 5 or expected[1] == 100
        model[1].weight.zero_()  # all scores equal: a guess, not all right
        model[1].bias.zero_()
        guess = evaluate(model, images, Recipe())
        assert guess == pytest.approx([100 * (labels < n).sum().item() / 1203 for n in (1, 5)])
        model[1].bias.fill_(float("nan"))
        with pytest.raises(Diverged, match="scores are not finite"):
            evaluate(model, images, Recipe())


def test_the_same_run_gives_the_same_and_another_seed_another(digits):
    run, before = tiny(epochs=1, lr_steps=[]), torch.get_rng_state()
    first = outcome(run, digits)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)  # which training neither reads nor changes
    assert outcome(run, digits) == first
    assert outcome(tiny(seed=1, epochs=1, lr_steps=[]), digits)[1] != first[1]


def test_equal_seeds_of_any_integer_kind_are_one_and_others_are_errors():
    expected = generator(3, "order", 0).initial_seed()
    assert generator(np.int64(3), "order", np.uint8(0)).initial_seed() == expected
    for other in (3.0, True, None):
        with pytest.raises(TypeError, match="expected an integer of at least 0 as seed or epoch"):
            generator(other, "order", 0)


@pytest.mark.parametrize("model", FAMILIES)
def test_a_network_is_a_function_of_its_seed_alone(model):
    before = torch.get_rng_state()
    first = build(tiny(model, seed=1)).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(7)
    with torch.device("meta"):  # a caller's default device
        again, other = build(tiny(model, seed=1)), build(tiny(model, seed=2)).state_dict()
    assert all(torch.equal(value, first[name]) for name, value in again.state_dict().items())
    drawn = [name for name, value in first.items() if value.dim() == 4]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)
    before = torch.get_rng_state()  # nor does it draw anything when it is trained
    again.train()(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


def test_a_network_seeds_no_gpus_generator(monkeypatch):
    seeded = Mock()
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded)
    build(tiny())
    assert not seeded.called


@pytest.mark.parametrize(
    "setting", ["TF32", "autocast", "no_grad", "float64", "device", "bf16 matmul"]
)
def test_what_the_user_has_set_does_not_reach_a_run(digits, setting):
    run = tiny(epochs=1, lr_steps=[], augmentation="resized_crop")
    expected = outcome(run, digits)
    try:
        if setting == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                assert outcome(run, digits) == expected
        elif setting == "no_grad":
            with torch.inference_mode():
                assert outcome(run, digits) == expected
        elif setting == "device":
            torch.set_default_device("meta")
            assert outcome(run, digits) == expected
            assert torch.get_default_device().type == "meta"
        elif setting == "float64":
            torch.set_default_dtype(torch.float64)
            assert outcome(run, digits) == expected
            assert torch.get_default_dtype() == torch.float64
        else:
            torch.backends.fp32_precision = "tf32" if setting == "TF32" else "bf16"
            torch.backends.mkldnn.conv.fp32_precision = "bf16"
            assert outcome(run, digits) == expected
            assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.backends.mkldnn.conv.fp32_precision = torch.backends.fp32_precision = "none"


@contextmanager
def one_thread():
    """Compute with one thread, as a run does: another number rounds sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_step_in_bfloat16_sees_weights_of_another():
    """PyTorch keeps cast weights until the outermost autocast ends, which may be a caller's."""
    run, losses = tiny("mobilenet", lr=1.0, precision="bfloat16"), []
    x = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(32) % 10
    for among in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        for context in (one_thread(), numerics(run.recipe, torch.device("cpu"))):
            with among, context:
                model = build(run)
                optimizer = make_optimizer(model, run.recipe)
                steps = (train_step(model, optimizer, x, y, run.recipe) for _ in range(4))
                losses.append([loss.item() for _, loss in steps])
    assert losses[0][0] != pytest.approx(losses[0][-1], rel=0.02)
    assert losses[1:] == losses[:1] * 3


def layers_step(layers, x, products):
    """What layers (input and parameters in float32) give in bfloat16, and their gradients."""
    x, layers = x.clone().requires_grad_(), copy.deepcopy(layers)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), products:
        y = layers(x)
    y.float().square().sum().backward()
    return y, x.grad, *(parameter.grad for parameter in layers.parameters())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 8, 3, padding=1), (4, 6, 8, 8)),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False), (4, 8, 8, 8)),
        (nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (4, 3, 5, 5)),
        (nn.Linear(10, 7), (4, 10)),
    ],
)
def test_a_cpu_without_bfloat16_computes_what_one_with_it_does(layer, shape):
    """Nearly every output to the last bit, for sums go in other orders; the gradients within two.

    Their largest difference is of each tensor's own size, which bits of bfloat16, 2^-8, are of too.
    """
    x = torch.randn(shape, generator=(numbers := torch.Generator().manual_seed(0)))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=numbers)
    own, ours = (layers_step(layer, x, how) for how in (nullcontext(), RoundedProducts()))
    assert ours[0].dtype == own[0].dtype == torch.bfloat16
    assert (ours[0] == own[0]).float().mean() > 0.95
    for expected, found in zip(own[1:], ours[1:], strict=True):
        assert (found - expected).abs().max() < 2**-7 * expected.abs().max()


@pytest.mark.parametrize("model", MODELS)
def test_the_fast_path_takes_the_plain_paths_step(model):
    # Stated tolerances: the loss to 1%, the gradient's length to 5%, its direction at the
    # classifier to a cosine of 0.98. Further down batch norms over many layers turn rounding into
    # direction: of the whole of ResNet-50's the cosine is 0.2, and only accuracies can be compared.
    # The recipe's own batch: of 32 images rounding alone moved ResNet-50's loss by up to 1.1%, on
    # one kind of processor and not on others; of 128 by up to 0.5% on each.
    x = torch.rand(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(128) % 10
    losses, gradients = [], []
    fast = PROFILES["small"].cifar.recipe_for(model, "uniform")
    for recipe in (Recipe(), fast):
        run = make_run(Setting(recipe, width_factors={model: 0.125}), "cifar10", model, "uniform")
        with numerics(recipe, torch.device("cpu")):
            network = build(run)
            losses.append(train_step(network, make_optimizer(network, recipe), x, y, recipe)[1])
        gradients.append([p.grad.flatten() for p in network.parameters()])
    plain, quick = (torch.cat(own).norm().item() for own in gradients)
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.01)
    assert quick == pytest.approx(plain, rel=0.05)
    classifiers = [torch.cat(own[-2:]) for own in gradients]
    assert torch.cosine_similarity(*classifiers, dim=0) > 0.98


def test_dense_gradients_change_no_bit(monkeypatch):
    run = make_run(Setting(width_factors={"inception": 0.125}), "cifar10", "inception", "uniform")
    recipe = PROFILES["small"].cifar.recipe
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y, steps = torch.arange(8), []
    for dense in (inception._dense, lambda gradient: gradient):
        monkeypatch.setattr(inception, "_dense", dense)
        with numerics(recipe, torch.device("cpu")):
            model = build(run)
            train_step(model, make_optimizer(model, recipe), x, y, recipe)
        steps.append(model.state_dict())
    for name, value in steps[0].items():
        assert torch.equal(value, steps[1][name]), name


@pytest.mark.parametrize("channels", [3, 8, 32])
def test_a_shortcut_is_a_strided_convolution(channels):
    x = torch.randn(4, channels, 9, 10).contiguous(memory_format=torch.channels_last)
    ours = Shortcut(channels, 24, 1, stride=2, bias=False)
    plain = nn.Conv2d(channels, 24, 1, stride=2, bias=False)
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), plain(x.contiguous()))


@pytest.mark.skipif(
    not torch.version.cuda or torch.cuda.is_available(), reason="a build for CUDA without a GPU"
)
def test_where_no_graph_can_be_made_a_step_is_as_if_none_had_been_tried():
    run, results = tiny("mobilenet"), []
    x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8)
    for tried in (False, True):
        model = build(run).train()
        steps = Steps(model, make_optimizer(model, run.recipe), run.recipe)
        steps(x, y)
        if tried:
            with pytest.warns(UserWarning, match="launched kernel by kernel"):
                assert steps._graph(x, y) is None
        losses = [steps(x, y)[1].item() for _ in range(3)]
        results.append((losses, [p.tolist() for p in model.state_dict().values()]))
    assert results[0] == results[1]


@pytest.mark.parametrize("ended", [True, False])
def test_a_capture_that_fails_says_why_and_ends_its_allocations(monkeypatch, ended):
    """Its end fails, too, with no reason; then PyTorch 2.11 has not ended allocating for it."""

    @contextmanager
    def capture(*given, **options):
        try:
            yield
        finally:
            raise RuntimeError("capture_end: previous error")

    released = []

    def end(device, pool):
        released.append(pool)
        if ended:
            raise RuntimeError("no such pool")

    monkeypatch.setattr("torch.cuda.CUDAGraph", Mock)
    monkeypatch.setattr("torch.cuda.graph", capture)
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr("torch._C._cuda_endAllocateToPool", end, raising=False)
    for name in ("stream", "current_stream", "Stream"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *given, **options: nullcontext())
    run = tiny("mobilenet")
    model = build(run).train()
    steps = Steps(model, make_optimizer(model, run.recipe), run.recipe)
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    steps(x, y)
    calls = iter([None, RuntimeError("operation not permitted when stream is capturing")])

    def step(*given):
        if error := next(calls):
            raise error
        return train_step(*given)

    monkeypatch.setattr("fredist.steps.train_step", step)
    with pytest.warns(UserWarning, match="got operation not permitted when stream is capturing:"):
        assert steps._graph(x, y) is None
    assert released == [(0, 1)]
    _stream.cache_clear()


def test_a_graph_that_holds_no_step_is_found_out(monkeypatch):
    """As where the step ran at once, on another GPU than the capture's, and its replay is idle."""
    monkeypatch.setattr("torch.cuda.CUDAGraph", Mock)
    for name in ("graph", "stream", "current_stream", "Stream", "graph_pool_handle"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *given, **options: nullcontext())
    run = tiny("mobilenet")
    model = build(run).train()
    steps = Steps(model, make_optimizer(model, run.recipe), run.recipe)
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    steps(x, y)
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.warns(UserWarning, match="got other numbers: .* launched kernel by kernel"):
        assert steps._graph(x, y) is None
    assert all(map(torch.equal, model.state_dict().values(), before))
    _stream.cache_clear()


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (make_network("mobilenet", "reverse", 1, 200, convention="published"), 64),
        (make_network("resnet50", "reverse", convention="published"), 32),
    ],
)
def test_evaluation_on_a_gpu_fits_where_training_does(network, size):
    recipe = Recipe(batch_size=16)
    batches = {"training": 16, "inference": evaluation_batch(recipe, torch.device("cuda"))}
    with torch.device("meta"):
        model = network.build()
        peaks = [
            tensor_peak(model, torch.rand(batch, 3, size, size), method)
            for method, batch in batches.items()
        ]
    assert peaks[1] < peaks[0]
    assert evaluation_batch(Recipe(), torch.device("cuda")) == 256


# -- stopped and continued

LAYOUTS = [("float32", "contiguous"), ("float32", "channels_last"), ("bfloat16", "channels_last")]
# As the author's code trains, and as studies do; the others are with the slow tests.
QUICK = {("vgg19", *LAYOUTS[0]), ("mobilenet", *LAYOUTS[1])}
QUICK |= {(model, *LAYOUTS[2]) for model in MODELS if model != "mobilenet"}
CASES = [(model, *layout) for model in MODELS for layout in LAYOUTS]


def test_an_interrupt_stays_one_where_pytorch_has_put_a_mode_aside():
    def interrupted_call():
        with RoundedProducts():
            torch.overrides._pop_mode()  # which it does before each call, to put it back after it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_call()


@pytest.mark.parametrize(
    ("model", "precision", "memory_format"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_stopped_after_each_epoch_and_within_one_it_ends_the_same(
    digits, tmp_path, model, precision, memory_format
):
    run = tiny(model, precision=precision, memory_format=memory_format)
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    expected = outcome(run, digits, checkpoint=whole)
    with pytest.raises(Stop):
        train(run, digits, checkpoint=parts, on_epoch=stop)
    with pytest.raises(KeyboardInterrupt):  # within the third
        interrupted(run, digits, parts)
    assert len(state_of(parts)["history"]["loss"]) == 2
    with pytest.raises(Stop):
        train(run, digits, checkpoint=parts, on_epoch=stop)
    epochs = []
    results, history, sessions = train(run, digits, checkpoint=parts, on_epoch=epochs.append)
    assert epochs == []  # all was done
    assert ({k: v for k, v in results.items() if k != "seconds"}, history) == expected
    assert [session["epochs"] for session in sessions] == [[1, 3]]  # one stretch: nothing changed
    assert_same_state(whole, parts)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.pt", "parts.pt"}


def interrupted(run, images, checkpoint):
    """Train, and press Ctrl-C five milliseconds into the next epoch but one."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        timer = signal.ITIMER_REAL
        train(run, images, checkpoint=checkpoint, on_epoch=lambda _: signal.setitimer(timer, 0.005))
    finally:
        signal.setitimer(timer, 0)
        signal.signal(signal.SIGALRM, before)


def test_past_the_deadline_nothing_is_trained_or_lost(digits, tmp_path):
    run, checkpoint = tiny(images=(64, 50)), tmp_path / "new" / "run.pt"
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
    part = ResidentImages(digits.test_images, digits.test_labels, *run.normalisation, "cpu")
    with pytest.raises(OutOfTime):  # nor in an evaluation, which may take long
        evaluate(build(run), part, run.recipe, past)


def test_a_run_that_moved_says_so(digits, tmp_path):
    run, checkpoint = tiny(images=(64, 50)), tmp_path / "run.pt"
    with pytest.raises(Stop):
        train(run, digits, checkpoint=checkpoint, on_epoch=stop)
    rewrite(checkpoint, lambda state: state["sessions"][0].update(device="Titan X", torch="1.4"))
    _, _, sessions = train(run, digits, checkpoint=checkpoint)
    said = [(session["epochs"], session["torch"]) for session in sessions]
    assert said == [([1, 1], "1.4"), ([2, 3], torch.__version__)]
    assert sessions[0]["device"] == "Titan X"


# -- damaged


@pytest.fixture(scope="module")
def stopped(digits, tmp_path_factory):
    """Return a run, its checkpoint after one epoch and how it ends."""
    run, path = tiny(images=(64, 50)), tmp_path_factory.mktemp("stopped") / "run.pt"
    with pytest.raises(Stop):
        train(run, digits, checkpoint=path, on_epoch=stop)
    return run, path.read_bytes(), outcome(run, digits)


def assert_starts_anew(run, digits, path, expected):
    damaged, epochs = path.read_bytes(), []
    with pytest.warns(
        UserWarning, match="got a damaged one .* kept as run.pt.damaged, and the run"
    ):
        assert outcome(run, digits, checkpoint=path, on_epoch=epochs.append) == expected
    assert epochs == [1, 2, 3]
    assert path.with_name("run.pt.damaged").read_bytes() == damaged


def test_one_flipped_bit_is_found_wherever_it_is(stopped, digits, tmp_path):
    run, content, expected = stopped
    path, model = tmp_path / "run.pt", build(run)
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="SHA-256"):
            _load(path, run, model)
    assert_starts_anew(run, digits, path, expected)


def emptied(state):
    state["history"] = {name: [] for name in state["history"]}


WRONG = {
    "empty": b"",
    "foreign": b"not a checkpoint",
    "half": None,
    "another run": lambda state: state.update(run="0" * 12),
    "no history": emptied,
    "epoch 99": lambda s: s["history"].update({k: v * 99 for k, v in s["history"].items()}),
    "not a number": lambda state: state["history"].update(loss=[float("nan")]),
    "101%": lambda state: state["history"].update(test_top1=[101.0]),
    "uneven": lambda state: state["history"].update(test_top1=[10.0, 10.0]),
    "epoch -5": lambda state: state["sessions"][0].update(epochs=[1, -5]),
    "no sessions": lambda state: state.update(sessions=[]),
    "no kind of device": lambda state: state["sessions"][0].pop("device_type"),
    "no device": lambda state: state["sessions"][0].update(device=""),
    "less than no time": lambda state: state["sessions"][0].update(seconds=-5.0),
    "weights": lambda state: next(iter(state["model"].values())).fill_(float("inf")),
    "momenta": lambda state: state["optimizer"]["state"].pop(0),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_that_no_run_writes_is_kept_aside(stopped, digits, tmp_path, what):
    run, content, expected = stopped
    path, change = tmp_path / "run.pt", WRONG[what]
    path.write_bytes(content)
    if callable(change):
        rewrite(path, change)
    else:
        path.write_bytes(content[: len(content) // 2] if change is None else change)
    assert_starts_anew(run, digits, path, expected)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ((Path, "read_bytes"), OSError(5, "Input/output error")),
        ((torch, "load"), MemoryError()),
        ((torch, "load"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")),
        ((torch, "stack"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")),
    ],
)
def test_what_cannot_be_read_for_now_is_not_damaged(
    stopped, digits, tmp_path, monkeypatch, place, error
):
    run, content, expected = stopped
    path = tmp_path / "run.pt"
    path.write_bytes(content)

    def refuse(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*place, refuse)
        with pytest.raises((OSError, MemoryError)):
            train(run, digits, checkpoint=path)
    assert path.read_bytes() == content
    epochs = []
    assert outcome(run, digits, checkpoint=str(path), on_epoch=epochs.append) == expected
    assert epochs == [2, 3]


def test_the_recipes_settings_go_before_a_checkpoints(stopped, digits, tmp_path):
    run, content, expected = stopped
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    other = {"weight_decay": 9.0, "momentum": 0.1, "maximize": True}
    rewrite(path, lambda state: state["optimizer"]["param_groups"][0].update(other))
    assert outcome(run, digits, checkpoint=path) == expected


# -- what is refused


def test_other_data_than_the_runs_are_refused(digits):
    other = replace(digits, fingerprint="0" * 16)
    with pytest.raises(ValueError, match=f"fingerprint {digits.fingerprint}, got digits with 0000"):
        train(tiny(), other)


def test_a_batch_of_one_image_is_refused(digits):
    with pytest.raises(ValueError, match="161 images in batches of 32 leave a last one of 1"):
        train(tiny(images=(161, 50)), digits)


def test_a_device_that_is_not_there_is_refused(digits):
    with pytest.raises(ValueError, match=r"expected cpu, cuda or cuda:1 as device, got 'gpu'"):
        train(tiny(), digits, "gpu")


def test_a_run_that_diverges_names_its_epoch(digits, tmp_path):
    checkpoint = tmp_path / "run.pt"
    with pytest.raises(Diverged, match=r"(loss is|not finite) .*in epoch 1: try a lower learning"):
        train(tiny(lr=1e30), digits, checkpoint=checkpoint)
    assert not checkpoint.exists()
    assert not torch.are_deterministic_algorithms_enabled()


def test_bfloat16_is_another_computation_of_the_same(digits):
    short = {"epochs": 1, "lr_steps": []}
    (_, half), (_, single) = (
        outcome(tiny(precision=precision, **short), digits) for precision in ("bfloat16", "float32")
    )
    assert half["loss"] != single["loss"]
    assert half["loss"] == pytest.approx(single["loss"], rel=0.05)
    weights = [p for p in build(tiny(memory_format="channels_last")).parameters() if p.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
