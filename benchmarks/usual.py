"""The usual script, as plainly as tutorials have it: what fredist's training is compared with."""

import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Images(Dataset):
    """Pillow images and labels, transformed one at a time."""

    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def loaders(images, labels, mean, std, workers, pin):
    """Return the loaders of one epoch of training and of evaluation."""
    to_tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    size = images[0].size[0]
    crop = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    train = Images(images, labels, transforms.Compose(crop + to_tensor))
    test = Images(images, labels, transforms.Compose(to_tensor))
    options = {"batch_size": 128, "num_workers": workers, "pin_memory": pin}
    return DataLoader(train, shuffle=True, **options), DataLoader(test, **options)


def rate(batches, step, seconds, wait=lambda: None):
    """Return images per second of so many seconds of steps, after two."""
    count, start = 0, None
    for number, (x, y) in enumerate(batches):
        if number == 2:
            wait()
            start = time.perf_counter()
        step(x, y)
        count += len(y) if start else 0
        if start and time.perf_counter() - start > seconds:
            break
    wait()
    return count / (time.perf_counter() - start)


def training(model, loader, device, seconds):
    """Return images per second of training."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    running_loss = 0.0

    def step(x, y):
        nonlocal running_loss
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()

    model.train()
    return rate(loader, step, seconds)


@torch.no_grad()
def evaluation(model, loader, device, seconds):
    """Return images per second of evaluation."""
    correct = 0

    def step(x, y):
        nonlocal correct
        x, y = x.to(device), y.to(device)
        correct += (model(x).argmax(1) == y).sum().item()

    model.eval()
    return rate(loader, step, seconds)
