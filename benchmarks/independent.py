"""VGG-19 at an eighth of its width on CIFAR-10, with PyTorch and torchvision alone.

A check of fredist from outside: nothing of it is imported. The network, the author's recipe at 10
epochs and the data are written down here once more, in the usual way, and accuracies compared.

    python benchmarks/independent.py <folder with train-*.parquet and test-*.parquet> [seed]
"""

import io
import math
import sys
from pathlib import Path

import pyarrow.parquet as parquet
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

EPOCHS, BATCH, RATE = 10, 128, 0.1
WIDTHS = [8, 8, "M", 16, 16, "M", 32, 32, 32, 32, "M", 64, 64, 64, 64, "M", 64, 64, 64, 64]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def vgg19():
    """Return the network, initialised as the author's code does."""
    layers, channels = [], 3
    for width in WIDTHS:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        conv, norm = nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        nn.init.normal_(conv.weight, 0, math.sqrt(2 / (9 * width)))
        nn.init.constant_(norm.weight, 0.5)
        layers += [conv, norm, nn.ReLU(inplace=True)]
        channels = width
    classifier = nn.Linear(channels, 10)
    nn.init.normal_(classifier.weight, 0, 0.01)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)


class Pictures(Dataset):
    """A split of the hub's CIFAR-10, decoded once."""

    def __init__(self, folder, split, *steps):
        rows = [r for p in sorted(Path(folder).rglob(f"{split}-*.parquet")) for r in read(p)]
        self.images = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image, _ in rows]
        self.labels = [label for _, label in rows]
        normal = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([*steps, *normal])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def read(path):
    """Return a file's images and labels."""
    table = parquet.read_table(path)
    image, label = (name for name in table.column_names[:2])
    return zip(table[image].to_pylist(), table[label].to_pylist(), strict=True)


def main():
    """Train once and print the test accuracy after each epoch."""
    torch.manual_seed(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train = DataLoader(Pictures(sys.argv[1], "train", *augment), BATCH, shuffle=True)
    test = DataLoader(Pictures(sys.argv[1], "test"), 500)
    model = vgg19()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    steps = [EPOCHS // 2, EPOCHS * 3 // 4]
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, steps, gamma=0.1)
    for epoch in range(EPOCHS):
        model.train()
        for x, y in train:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            right = sum((model(x).argmax(1) == y).sum().item() for x, y in test)
        print(f"epoch {epoch + 1}: {100 * right / len(test.dataset):.2f}%", flush=True)


if __name__ == "__main__":
    main()
