"""The batches: against torchvision and Pillow one image at a time, functions of (seed, epoch)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import crop, hflip, pad, resized_crop

from fredist.batches import ResidentImages, generator

PIXELS = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # the mean and deviation that leave them
CROPS = {"augmentation": "pad_crop", "pad": 2, "flip": True}
RESIZED = {"augmentation": "resized_crop", "pad": 0, "flip": True}


def random_images(n=23, height=6, width=5, seed=0):
    """Return images (n, 3, height, width) whose pixels tell them apart; labels are 0 ... n-1."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (n, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(images), torch.arange(n)


def resident_images(*arguments, **options):
    return ResidentImages(*random_images(*arguments, **options), *PIXELS, "cpu")


def epoch_of(resident, how, seed=0, epoch=0, batch_size=8):
    """Return one epoch's images and labels, in the order given out."""
    batches = list(resident.augmented(batch_size, seed, epoch, **how))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def pil(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy().astype(np.uint8))


def found_among(image, candidates):
    """Return the keys of the Pillow images that a tensor of whole numbers equals."""
    shown = image.permute(1, 2, 0).numpy()
    return [key for key, other in candidates if np.array_equal(shown, np.asarray(other))]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("border", [0, 1, 2])
def test_pad_crop_is_torchvisions(border, flip):
    images, _ = random_images()
    how = {"augmentation": "pad_crop", "pad": border, "flip": flip}
    x, y = epoch_of(resident_images(), how)
    assert x.shape == (23, 3, 6, 5)
    assert x.dtype == torch.float32
    for image, label in zip(x, y.tolist(), strict=True):
        padded = pad(pil(images[label]), border)
        corners = [(i, j) for i in range(2 * border + 1) for j in range(2 * border + 1)]
        cut = {corner: crop(padded, *corner, 6, 5) for corner in corners}
        mirrored = {(*corner, "flip"): hflip(part) for corner, part in cut.items()} if flip else {}
        assert len(found_among(image, (cut | mirrored).items())) == 1


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 5)])
def test_resized_crop_is_torchvisions_to_the_bit(height, width):
    """Pillow's antialiasing plays no part: a crop is never larger than what it is resized to."""
    images, _ = random_images(20, height, width)
    x, y = epoch_of(resident_images(20, height, width), RESIZED)
    sides, boxes = set(), set()
    for image, label in zip(x, y.tolist(), strict=True):
        of = pil(images[label])

        def candidates(of):
            for h in range(1, height + 1):
                for w in range(1, width + 1):
                    for box in np.ndindex(height - h + 1, width - w + 1):
                        part = resized_crop(of, *box, h, w, [height, width])
                        yield (*box, h, w, False), part
                        yield (*box, h, w, True), hflip(part)

        *box, side = found_among(image, candidates(of))[0]
        boxes.add(tuple(box))
        sides.add(side)
    assert len(boxes) > 10
    assert any(top > 0 and top + h == height for top, _, h, _ in boxes)  # up to both edges
    assert any(left > 0 and left + w == width for _, left, _, w in boxes)
    assert sides == {False, True}


def test_resized_crop_of_real_size_is_torchvisions_to_the_bit():
    images, _ = random_images(60, 64, 64)
    resident = resident_images(60, 64, 64)
    x, y = epoch_of(resident, RESIZED | {"flip": False})
    # A picture of where each pixel is from tells the box.
    there = torch.arange(64.0) * 4
    place = torch.stack(
        [there[:, None].expand(64, 64), there.expand(64, 64), 0 * there.expand(64, 64)]
    )
    places = ResidentImages(place.byte().expand(60, 3, 64, 64), torch.arange(60), *PIXELS, "cpu")
    where, same = epoch_of(places, RESIZED | {"flip": False})
    assert torch.equal(y, same)
    areas, ratios = [], []
    for image, label, map_ in zip(x, y.tolist(), where, strict=True):
        top, left = (map_[0].min() / 4).ceil().int().item(), (map_[1].min() / 4).ceil().int().item()
        h = (map_[0].max() / 4).ceil().int().item() - top + 1
        w = (map_[1].max() / 4).ceil().int().item() - left + 1
        reference = resized_crop(pil(images[label]), top, left, h, w, [64, 64])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(reference))
        areas.append(h * w / 64**2)
        ratios.append(w / h)
    assert 0.07 < min(areas) < 0.12
    assert 0.9 < max(areas) <= 1
    assert 0.7 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.4


def test_boxes_are_as_frequent_as_torchvisions():
    place = torch.arange(64.0).expand(3, 64, 64).byte()
    n = 3000
    resident = ResidentImages(place.expand(n, 3, 64, 64), torch.arange(n), *PIXELS, "cpu")
    x, _ = epoch_of(resident, RESIZED | {"flip": False}, batch_size=500)
    left, right = x[:, 0, 0, 0], x[:, 0, 0, -1]
    theirs = [RandomResizedCrop.get_params(place, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(n)]
    their_left = torch.tensor([float(box[1]) for box in theirs])
    their_right = torch.tensor([box[1] + box[3] - 1.0 for box in theirs])
    for ours, other in (
        (left, their_left),
        (right, their_right),
        (right - left, their_right - their_left),
    ):
        points = torch.linspace(0, 1, 11)[1:-1]
        assert (ours.quantile(points) - other.quantile(points)).abs().max() < 4


def test_every_crop_and_both_sides_occur_about_equally_often():
    resident = resident_images(1000, 4, 4)
    x, y = epoch_of(resident, CROPS | {"pad": 1}, batch_size=500)
    images, counts = resident.images.numpy(), {}
    for image, label in zip(x, y.tolist(), strict=True):
        padded = pad(Image.fromarray(images[label]), 1)
        for i in range(3):
            for j in range(3):
                cut = crop(padded, i, j, 4, 4)
                for key in found_among(image, [((i, j, 0), cut), ((i, j, 1), hflip(cut))]):
                    counts[key] = counts.get(key, 0) + 1
    assert sum(counts.values()) == 1000
    assert len(counts) == 18
    assert all(abs(count - 1000 / 18) < 5 * (1000 / 18) ** 0.5 for count in counts.values()), counts


@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), how=st.sampled_from([CROPS, RESIZED]))
@settings(deadline=None, max_examples=30)
def test_an_epoch_has_every_image_once(n, batch_size, how):
    batches = list(resident_images(n).augmented(batch_size, 1, 3, **how))
    sizes = [len(y) for _, y in batches]
    assert sizes == [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(n))


@pytest.mark.parametrize(
    "how", [CROPS, RESIZED, CROPS | {"flip": False}, RESIZED | {"flip": False}]
)
def test_an_epoch_is_a_function_of_seed_and_epoch_alone(how):
    resident = resident_images()
    x, y = epoch_of(resident, how, seed=1, epoch=2)
    epoch_of(resident, how, seed=1, epoch=1)  # whatever was drawn before
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for batch_size in (8, 5):
        again = epoch_of(resident, how, seed=1, epoch=2, batch_size=batch_size)
        assert torch.equal(x, again[0])
        assert torch.equal(y, again[1])
    assert torch.equal(before, torch.get_rng_state())  # nothing from the global generator
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        others, theirs = epoch_of(resident, how, seed=seed, epoch=epoch)
        assert not torch.equal(y, theirs)
        assert not torch.equal(x[y.argsort()], others[theirs.argsort()])  # each cut otherwise


@pytest.mark.parametrize("how", [CROPS | {"pad": 0}, RESIZED])
def test_flips_are_independent_of_order_and_crops(how):
    resident = resident_images()
    plain, flipped = epoch_of(resident, how | {"flip": False}), epoch_of(resident, how)
    assert torch.equal(plain[1], flipped[1])
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(plain[0], flipped[0], strict=True)]
    same = [torch.equal(a, b) for a, b in zip(plain[0], flipped[0], strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(mirrored)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_plain_batches_are_all_images_in_order(batch_size):
    images, labels = random_images()
    batches = list(ResidentImages(images, labels, *PIXELS, "cpu").plain(batch_size))
    assert all(len(y) == batch_size for _, y in batches[:-1])
    assert torch.equal(torch.cat([x for x, _ in batches]), images.float())
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


def test_images_are_normalised_after_the_padding():
    images, labels = random_images()
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    resident = ResidentImages(images, labels, mean, std, "cpu")
    (x, _), (shown, _) = epoch_of(resident, CROPS), epoch_of(resident_images(), CROPS)
    assert (shown == 0).any()  # black, not the mean
    as_torchvision = (shown.double() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    np.testing.assert_allclose(x, as_torchvision, rtol=1e-5, atol=1e-6)


def test_a_generator_is_a_function_of_its_parts():
    keys = [(0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "crop", 0), (0, "flip", 0)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)
    assert generator(0, "order", 1).initial_seed() == generator(0, "order", 1).initial_seed()


def test_another_augmentation_is_refused():
    with pytest.raises(ValueError, match=r"unknown augmentation 'crop'.*pad_crop, resized_crop"):
        epoch_of(resident_images(), CROPS | {"augmentation": "crop"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA finds")
@pytest.mark.parametrize("how", [CROPS, RESIZED])
def test_a_gpu_gives_the_same_batches_without_waiting(how):
    images, labels = random_images(100, 32, 32)
    constants = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    on_cpu = list(ResidentImages(images, labels, *constants, "cpu").augmented(16, 0, 1, **how))
    resident, found = ResidentImages(images, labels, *constants, "cuda"), []
    batches = resident.augmented(16, 0, 1, **how)
    found.append(next(batches))  # what is drawn is sent here
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += batches
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), (their_x, their_y) in zip(on_cpu, found, strict=True):
        assert torch.equal(x, their_x.cpu())
        assert torch.equal(y, their_y.cpu())
