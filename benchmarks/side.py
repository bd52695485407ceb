"""One side of the comparison in a process of its own, which times whenever it is told to."""

import itertools
import sys
from functools import partial

import torch
import usual
from PIL import Image

from fredist import batches, steps, train
from fredist.data import DATASETS, at_hand, load
from fredist.device import choose_device, numerics, synchronize
from fredist.paper import choose


def ours(run, images, device):
    """Yield images per second for each order to train or to evaluate, as fredist does it."""
    resident = batches.ResidentImages(
        images.train_images, images.train_labels, *run.normalisation, device
    )
    recipe = run.recipe
    how = {"augmentation": recipe.augmentation, "pad": recipe.pad, "flip": recipe.flip}
    with numerics(recipe, device):
        model = train.build(run, device)
        training = steps.Steps(model, steps.make_optimizer(model, recipe), recipe)
        wait, rate = partial(synchronize, device), None

        @torch.no_grad()
        def evaluation(x, y):
            steps.forward(model, x, recipe)

        for epoch in itertools.count():
            order, seconds = yield rate
            if order == "training":
                model.train()
                stream = resident.augmented(recipe.batch_size, 0, epoch, **how)
                rate = usual.rate(stream, training, seconds, wait)
            else:
                model.eval()
                stream = resident.plain(train.evaluation_batch(recipe, device))
                rate = usual.rate(stream, evaluation, seconds, wait)


def theirs(run, images, device, workers):
    """Yield images per second for each order, by the usual script."""
    pictures = [
        Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.train_images[:20_000]
    ]
    labels, (mean, std) = images.train_labels.tolist(), run.normalisation
    model = train.build(run).to(memory_format=torch.contiguous_format).to(device)
    order, seconds = yield
    while True:
        pair = usual.loaders(pictures, labels, mean, std, workers, device.type == "cuda")
        work, loader = (
            (usual.training, pair[0]) if order == "training" else (usual.evaluation, pair[1])
        )
        order, seconds = yield work(model, loader, device, seconds)


def main():
    """Answer each line of orders, `training 3.0`, by a line of images per second."""
    side, profile, model, template = sys.argv[1:]
    device = choose_device()
    dataset = "cifar10" if at_hand("cifar10") else "digits"
    choices = choose("table1", profile, datasets=dataset, models=model, templates=template, seeds=0)
    [run] = choices.runs()
    images = load(dataset)
    work = ours(run, images, device) if side == "ours" else theirs(run, images, device, int(side))
    next(work)
    print(DATASETS[dataset].size, flush=True)
    for line in sys.stdin:
        order, seconds = line.split()
        print(work.send((order, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
