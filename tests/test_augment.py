"""The batches: against one image at a time, and as a function of (seed, epoch)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fredist.augment import ResidentImages, channel_statistics, generator

ZERO, ONE = torch.zeros(3), torch.ones(3)  # the mean and deviation that leave the pixels


def random_images(n=23, height=6, width=5, seed=0):
    """Return images (n, 3, height, width) whose pixels tell them apart; labels are 0 ... n-1."""
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (n, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(images), torch.arange(n)


def epoch_of(resident, seed=0, epoch=0, batch_size=8, padding=2, flip=True):
    """Return one epoch's images and labels, in the order given out."""
    batches = list(resident.augmented(batch_size, seed, epoch, padding=padding, flip=flip))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def variants(image, padding, flip):
    """Return each crop of one padded image (C, H, W), plain and mirrored, by (top, left, flip)."""
    _, height, width = image.shape
    padded = np.zeros((3, height + 2 * padding, width + 2 * padding), np.float32)
    padded[:, padding : padding + height, padding : padding + width] = image
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + height, left : left + width]
            found[top, left, False] = crop
            if flip:
                found[top, left, True] = crop[:, :, ::-1]
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_each_image_is_padded_cropped_and_flipped_whole(padding, flip):
    images, labels = random_images()
    resident = ResidentImages(images, labels, ZERO, ONE, "cpu")
    x, y = epoch_of(resident, padding=padding, flip=flip)
    assert x.shape == (23, 3, 6, 5)
    assert x.dtype == torch.float32
    for image, label in zip(x.numpy(), y.tolist(), strict=True):
        candidates = variants(images[label].numpy(), padding, flip).values()
        assert sum(np.array_equal(image, candidate) for candidate in candidates) == 1


def test_every_crop_and_both_sides_occur_about_equally_often():
    images, labels = random_images(n=2000, height=4, width=4)
    resident = ResidentImages(images, labels, ZERO, ONE, "cpu")
    x, y = epoch_of(resident, padding=1, batch_size=500)
    counts = dict.fromkeys(variants(images[0].numpy(), 1, True), 0)
    for image, label in zip(x.numpy(), y.tolist(), strict=True):
        for key, candidate in variants(images[label].numpy(), 1, True).items():
            counts[key] += np.array_equal(image, candidate)
    assert sum(counts.values()) == 2000
    mean = 2000 / len(counts)
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values()), counts


@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=40)
def test_an_epoch_has_every_image_once(n, batch_size, seed):
    resident = ResidentImages(*random_images(n), ZERO, ONE, "cpu")
    batches = list(resident.augmented(batch_size, seed, 3, padding=1, flip=True))
    sizes = [len(y) for _, y in batches]
    assert sizes == [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(n))


def test_an_epoch_is_a_function_of_seed_and_epoch_alone():
    resident = ResidentImages(*random_images(), ZERO, ONE, "cpu")
    x, y = epoch_of(resident, seed=1, epoch=2)
    epoch_of(resident, seed=1, epoch=1)  # whatever was drawn before
    torch.manual_seed(5)
    torch.rand(3)
    again = epoch_of(resident, seed=1, epoch=2)
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    other_batches = epoch_of(resident, seed=1, epoch=2, batch_size=5)
    assert torch.equal(x, other_batches[0])
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not torch.equal(y, epoch_of(resident, seed=seed, epoch=epoch)[1])
        for how in ({"padding": 0}, {"flip": False}):  # flips alone, crops alone
            images, labels = epoch_of(resident, seed=1, epoch=2, **how)
            others, their_labels = epoch_of(resident, seed=seed, epoch=epoch, **how)
            assert not torch.equal(images[labels.argsort()], others[their_labels.argsort()])


def test_order_crops_and_flips_are_independent_of_each_other():
    resident = ResidentImages(*random_images(), ZERO, ONE, "cpu")
    plain = epoch_of(resident, padding=0, flip=False)
    flipped = epoch_of(resident, padding=0, flip=True)
    assert torch.equal(plain[1], flipped[1])
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(plain[0], flipped[0], strict=True)]
    same = [torch.equal(a, b) for a, b in zip(plain[0], flipped[0], strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 0 < sum(mirrored) < len(mirrored)


def test_augmenting_draws_nothing_from_the_global_generator():
    resident = ResidentImages(*random_images(), ZERO, ONE, "cpu")
    before = torch.get_rng_state()
    epoch_of(resident)
    assert torch.equal(before, torch.get_rng_state())


def test_a_generator_is_a_function_of_its_parts():
    keys = [(0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "crop", 0), (0, "flip", 0)]
    assert len({generator(*key).initial_seed() for key in keys}) == len(keys)
    assert generator(0, "order", 1).initial_seed() == generator(0, "order", 1).initial_seed()


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_plain_batches_are_all_images_in_order(batch_size):
    images, labels = random_images()
    batches = list(ResidentImages(images, labels, ZERO, ONE, "cpu").plain(batch_size))
    assert all(len(y) == batch_size for _, y in batches[:-1])
    assert torch.equal(torch.cat([x for x, _ in batches]), images.float())
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


def test_images_are_normalised_after_the_padding():
    images, labels = random_images()
    mean, std = channel_statistics(images)
    resident = ResidentImages(images, labels, mean, std, "cpu")
    x = torch.cat([x for x, _ in resident.plain(10)])
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((0, 2, 3), correction=0), 1, atol=1e-5)
    raw = ResidentImages(images, labels, ZERO, ONE, "cpu")
    (x, y), (pixels, y_raw) = epoch_of(resident), epoch_of(raw)  # its padding is black: 0
    assert (pixels == 0).any()
    expected = (pixels - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(y, y_raw)


def test_statistics_are_numpys(digits):
    coloured, _ = random_images(n=50)
    coloured[:, 1] //= 3
    for images in (coloured, digits.train_images):
        mean, std = channel_statistics(images)
        np.testing.assert_allclose(mean, images.numpy().mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(std, images.numpy().std((0, 2, 3)), rtol=1e-6)
