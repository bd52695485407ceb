"""What the paper claims: its words, where they stand, and the comparison that decides each."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from .data import DATASETS
from .evidence import CIFAR, TINY, Numbers, Span, largest, smallest
from .experiments import TABLE2_MODELS
from .models import FAMILIES
from .report import TEMPLATE_LABELS
from .templates import TEMPLATES

MODELS, REDISTRIBUTED = tuple(FAMILIES), TEMPLATES[1:]


@dataclass(frozen=True)
class Cell:
    """One comparison that a claim is about: in percent, and for accuracies in points too."""

    label: str
    percent: Span
    points: Span | None = None


@dataclass(frozen=True)
class Claim:
    """A claim: the paper's words, where they stand, and the comparison that decides it.

    `test` is "<some or every> <above, below or reaches> <bound><% or points>". `some` claims need
    one cell that passes, `every` claims all. `above` and `below` compare as it is. What `reaches`
    a number that the paper gives as reached ("up to 5.5%", "of 14%") is first rounded to that
    number's own digits, and may be more: 5.58% reaches 5.5%. The unit is the reading in which the
    paper's own number comes out. `curve` claims compare networks at several widths.

    Examples
    --------
    >>> claim = Claim("", "", "", "accuracy", gains, "some reaches 5.5%")
    >>> claim.unit, claim.passes(5.46), claim.passes(5.44)
    ('percent', True, False)
    """

    id: str
    words: str
    where: str
    kind: str
    cells: Callable[[Numbers], list[Cell]]
    test: str
    reason: str = ""
    curve: bool = False

    @property
    def some(self) -> bool:
        """Whether one cell that passes is enough."""
        return self.test.startswith("some")

    @property
    def unit(self) -> str:
        """The unit that is compared: "percent" or "points"."""
        return "percent" if self.test.endswith("%") else "points"

    def passes(self, value: float) -> bool:
        """Return whether a number passes the test."""
        _, how, bound = self.test.removesuffix("points").removesuffix("%").split()
        if math.isinf(value):
            return (value > 0) == (how != "below")
        if how == "reaches":
            return round(value, len(bound.partition(".")[2])) >= float(bound)
        value = round(value, 9)  # a difference of printed numbers is exact to fewer digits
        return value > float(bound) if how == "above" else value < float(bound)


def versus(label: str, one: Span, other: Span) -> Cell:
    """Return the cell that compares two accuracies."""
    return Cell(label, one.over(other), one - other)


def gains(
    d: Numbers, models=MODELS, datasets=CIFAR, templates=REDISTRIBUTED, x: str | None = None
) -> list[Cell]:
    """Return each template's accuracy above the base's: at width 1.0, or with as much x."""
    return [
        versus(
            _label(model, template, dataset),
            d.at_equal(x, dataset, model, template) if x else d.accuracy(dataset, model, template),
            d.accuracy(dataset, model, "base"),
        )
        for dataset, model in _pairs(models, datasets)
        for template in templates
    ]


def changes(d: Numbers, models=MODELS, datasets=CIFAR) -> list[Cell]:
    """Return each template's change of the base's accuracy, without its sign."""
    return [
        Cell(cell.label, cell.percent.size(), cell.points.size())
        for cell in gains(d, models, datasets)
    ]


def best_gains(
    d: Numbers, models=MODELS, datasets=CIFAR, rank: int = 1, x: str | None = None
) -> list[Cell]:
    """Return, for each model and data set, the best template's gain, or that of another rank."""
    return [
        best_of(_label(model, None, dataset), gains(d, (model,), (dataset,), x=x), rank)
        for dataset, model in _pairs(models, datasets)
    ]


def best_of(label: str, cells: Sequence[Cell], rank: int = 1) -> Cell:
    """Return the best of several comparisons of accuracies as one."""
    percents, points = [cell.percent for cell in cells], [cell.points for cell in cells]
    return Cell(label, largest(percents, rank), largest(points, rank))


def increases(d: Numbers, quantity: str, models=MODELS, templates=REDISTRIBUTED) -> list[Cell]:
    """Return how much more than the base each template takes (Table 3)."""
    return [
        Cell(
            _label(model, template),
            d.cost(quantity, model, template).over(d.cost(quantity, model, "base")),
        )
        for model in models
        for template in templates
    ]


def reductions(d: Numbers, quantity: str, models=MODELS, templates=REDISTRIBUTED) -> list[Cell]:
    """Return how much less than the base each template takes (Table 3)."""
    cells = increases(d, quantity, models, templates)
    return [Cell(cell.label, -cell.percent) for cell in cells]


def savings(d: Numbers, x: str, models=MODELS, datasets=CIFAR) -> list[Cell]:
    """Return how much less of a resource each template needs for the base's accuracy."""
    return [
        Cell(_label(model, template, dataset), -needed.over(d.amount(x, dataset, model, "base")))
        for dataset, model in _pairs(models, datasets)
        for template, needed in _needs(d, x, dataset, model).items()
        if template != "base"
    ]


def best_savings(d: Numbers, x: str, models=MODELS, datasets=CIFAR) -> list[Cell]:
    """Return, for each model and data set, what the best template saves at equal accuracy."""
    return [
        Cell(
            _label(model, None, dataset),
            largest([cell.percent for cell in savings(d, x, (model,), (dataset,))]),
        )
        for dataset, model in _pairs(models, datasets)
    ]


def excess(d: Numbers, x: str, ones: Sequence[str], others: Sequence[str]) -> list[Cell]:
    """Return how much more the best of some templates needs than the best of others."""
    cells = []
    for dataset, model in _pairs(MODELS, CIFAR):
        needs = _needs(d, x, dataset, model)
        one, other = (smallest([needs[name] for name in names]) for names in (ones, others))
        cells.append(Cell(_label(model, None, dataset), one.over(other)))
    return cells


def leads(d: Numbers, model: str, others: Sequence[str]) -> list[Cell]:
    """Return how far a base model's accuracy is above the best of other base models."""
    return [
        versus(
            _label(model, "base", dataset),
            d.accuracy(dataset, model, "base"),
            largest([d.accuracy(dataset, other, "base") for other in others]),
        )
        for dataset in CIFAR
    ]


def improvement_leads(d: Numbers, models: Sequence[str], others: Sequence[str]) -> list[Cell]:
    """Return how far models' best gains are above the best gain of other models."""
    cells = []
    for dataset in CIFAR:
        best = best_of("", best_gains(d, others, (dataset,)))
        cells += [
            Cell(cell.label, cell.percent - best.percent, cell.points - best.points)
            for cell in best_gains(d, models, (dataset,))
        ]
    return cells


def increases_with_fewer(d: Numbers, quantity: str) -> list[Cell]:
    """Return how much more of a quantity those templates take that have fewer parameters."""
    pairs = zip(increases(d, "params_millions"), increases(d, quantity), strict=True)
    return [cell for params, cell in pairs if params.percent.value < 0]


def tiny_reductions(d: Numbers, models: Sequence[str]) -> list[Cell]:
    """Return how many parameters less than the base each template has (Table 2)."""
    return [
        Cell(
            _label(model, template, TINY),
            -d.amount("params", TINY, model, template).over(
                d.amount("params", TINY, model, "base")
            ),
        )
        for model in models
        for template in REDISTRIBUTED
    ]


def tiny_benefits(d: Numbers, models: Sequence[str]) -> list[Cell]:
    """Return the larger of each template's gain in accuracy and saving of parameters (Table 2)."""
    pairs = zip(gains(d, models, (TINY,)), tiny_reductions(d, models), strict=True)
    return [Cell(gain.label, largest([gain.percent, less.percent])) for gain, less in pairs]


def _needs(d: Numbers, x: str, dataset: str, model: str) -> dict[str, Span]:
    return {template: d.needed(x, dataset, model, template) for template in TEMPLATES}


def _pairs(models: Sequence[str], datasets: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((dataset, model) for dataset in datasets for model in models)


def _label(model: str, template: str | None, dataset: str | None = None) -> str:
    names = [FAMILIES[model].label, TEMPLATE_LABELS[template] if template else ""]
    place = f", {DATASETS[dataset].label}" if dataset else ""
    return " ".join(filter(None, names)) + place


_VGG_MOBILENET, _RESNET_INCEPTION = ("vgg19", "mobilenet"), ("resnet50", "inception")
_C10 = ("cifar10",)
CLAIMS = (
    Claim("accuracy up to", "accuracy improvement for some network-task pairs of up to 5.5%",
          "abstract, p. 1; section 5, p. 8", "accuracy", gains, "some reaches 5.5%",
          "Relative to the base's accuracy; Table 2 claims more."),
    Claim("parameters up to", "a reduction of up to 45% in parameters", "abstract, p. 1", "params",
          partial(reductions, quantity="params_millions"), "some reaches 45%",
          "The one cell that does not follow from F / D."),
    Claim("memory up to", "60% reduction in memory footprint", "abstract, p. 1", "memory",
          partial(reductions, quantity="memory_gb"), "some reaches 60%"),
    Claim("surpass at equal resources", "surpass the original accuracy even after been reduced to "
          "fit to the original amount of resources", "abstract, p. 1", "accuracy",
          partial(best_gains, x="params"), "every above 0%",
          "Taken as: the best template of each model, with the base's parameters.", curve=True),
    Claim("parameters at equal accuracy", "the same accuracy than the original models using [...] "
          "up to 45% less parameters", "section 5, p. 8", "params", partial(savings, x="params"),
          "some reaches 45%", curve=True),
    Claim("memory at equal accuracy", "the same accuracy [...] and a memory footprint up to 60% "
          "smaller", "section 5, p. 8", "memory", partial(savings, x="memory_gb"),
          "some reaches 60%", curve=True),
    Claim("smaller than the multiplier", "redistributing filters [...] and then applying a width "
          "multiplier [...] produces smaller models than just applying the width multiplier",
          "section 1, p. 2", "params",
          partial(excess, x="params", ones=REDISTRIBUTED, others=("base",)), "every below 0%",
          "At the base's accuracy, the best template beside the base's own curve.", curve=True),
    Claim("variation, CIFAR", "The variation in accuracy for all models after administering "
          "templates is less than 5%", "section 5, p. 8", "accuracy", changes, "every below 5%"),
    Claim("variation, Tiny-ImageNet", "The variation in accuracy for all models after "
          "administering templates is less than 5%", "section 5, p. 8", "accuracy",
          partial(changes, models=TABLE2_MODELS, datasets=(TINY,)), "every below 5%",
          "Table 2's accuracies are not credible as top-1 on the validation split."),
    Claim("surpass the base", "After filter redistribution models surpass the base accuracy",
          "Table 1, p. 6", "accuracy", best_gains, "every above 0%",
          "Taken as: the best template of each model."),
    Claim("improve on CIFAR-10", "for VGG, ResNet and MobileNet, the model accuracy improves in "
          "CIFAR-10 when the templates are applied", "section 4, p. 5", "accuracy",
          partial(gains, models=("vgg19", "resnet50", "mobilenet"), datasets=_C10),
          "every above 0%"),
    Claim("Inception the highest", "Inception architecture presents the highest accuracy of all "
          "base models in both datasets", "section 4, p. 5", "accuracy",
          partial(leads, model="inception", others=("vgg19", "resnet50", "mobilenet")),
          "every above 0%"),
    Claim("Inception resilient", "templates are only able to change its accuracy in less than "
          "1.5%", "section 4, p. 5", "accuracy", partial(changes, models=("inception",)),
          "every below 1.5points"),
    Claim("sequential models improve more", "VGG and MobileNet, show a better improvement when "
          "using templates", "section 4, p. 5", "accuracy",
          partial(improvement_leads, models=_VGG_MOBILENET, others=_RESNET_INCEPTION),
          "every above 0%", "Each one's best template beside ResNet's and Inception's."),
    Claim("almost any template", "VGG and MobileNet models improve in accuracy almost with any "
          "template in CIFAR-10 and CIFAR-100", "section 4, p. 7", "accuracy",
          partial(best_gains, models=_VGG_MOBILENET, rank=3), "every above 0%",
          "Taken as: three of the four templates, at width 1.0."),
    Claim("ResNet above VGG", "by using ResNet the accuracy improves compared to the obtained by "
          "VGG in the two datasets", "section 4, p. 7", "accuracy",
          partial(leads, model="resnet50", others=("vgg19",)), "every above 0%"),
    Claim("Tiny-ImageNet, VGG", "a very modest reduction in parameters with VGG",
          "section 4, p. 5", "params", partial(tiny_reductions, models=("vgg19",)),
          "every above 0%", "Taken as: each template has fewer than the base."),
    Claim("Tiny-ImageNet, MobileNet", "a very remarkable accuracy improvement is produced in "
          "MobileNet", "section 4, p. 5", "accuracy",
          partial(gains, models=("mobilenet",), datasets=(TINY,)), "every above 0%",
          "Taken as: each template improves. Table 2's accuracies may not be top-1."),
    Claim("Tiny-ImageNet, either", "After applying templates, models improve in accuracy or "
          "resource utilisation", "Table 2, p. 6", "params",
          partial(tiny_benefits, models=TABLE2_MODELS), "every above 0%",
          "The larger of the gain and the saving of parameters."),
    Claim("fewer parameters", "The Reverse-Base, Uniform and Quadratic templates show some "
          "reductions in the number of parameters", "section 4, p. 7", "params",
          partial(reductions, quantity="params_millions", templates=REDISTRIBUTED[:3]),
          "every above 0%"),
    Claim("Negative-Quadratic memory", "Negative Quadratic template reduces the memory usage",
          "section 4, p. 7", "memory",
          partial(reductions, quantity="memory_gb", templates=REDISTRIBUTED[3:]), "every above 0%"),
    Claim("other templates' memory", "in all the templates but Negative-Quadratic [...] more "
          "memory costly", "section 4, p. 7", "memory",
          partial(increases, quantity="memory_gb", templates=REDISTRIBUTED[:3]), "every above 0%"),
    Claim("parameters are not memory", "a reduced number of parameters does not correspond to a "
          "low consumption of memory", "section 4, p. 7", "memory",
          partial(increases_with_fewer, quantity="memory_gb"), "some above 0%"),
    Claim("parameters are not time", "a reduced number of parameters does not correspond to [...] "
          "a small inference time", "section 4, p. 7", "time",
          partial(increases_with_fewer, quantity="time_ms"), "some above 0%"),
    Claim("slower", "Inference Time is affected negatively for the templates", "section 4, p. 7; "
          "Table 3, p. 6", "time",
          partial(increases, quantity="time_ms", models=("vgg19", "resnet50", "mobilenet")),
          "every above 0%", "Without Inception, which the text excepts."),
    Claim("Inception faster", "The Inception model shows [...] a reduction of 14% over inference "
          "time", "section 4, p. 7", "time",
          partial(reductions, quantity="time_ms", models=("inception",)), "some reaches 14%"),
    Claim("a quarter of the parameters", "their original accuracy can be reached with less than "
          "25% of the original parameters in the two models", "section 4, p. 7", "params",
          partial(best_savings, x="params", models=_VGG_MOBILENET), "every above 75%",
          "As a saving: more than 75%.", curve=True),
    Claim("half the memory", "More than 50% of memory consumption can be reduced in both models "
          "while producing the same accuracy", "section 4, p. 7", "memory",
          partial(best_savings, x="memory_gb", models=_VGG_MOBILENET), "every above 50%",
          curve=True),
    Claim("uniform is the most efficient", "the uniform template seems to get the best parameter "
          "efficiency for all the models", "section 4, p. 7", "params",
          partial(excess, x="params", ones=("uniform",),
                  others=("base", "reverse", "quadratic", "negative_quadratic")),
          "every below 0%", "What it needs for the base's accuracy beside the best other.",
          curve=True),
    Claim("Negative-Quadratic per memory", "ResNet and Inception improve slightly in CIFAR-10 with "
          "the Negative-Quadratic template", "section 4, p. 7", "memory",
          partial(gains, models=_RESNET_INCEPTION, datasets=_C10, templates=REDISTRIBUTED[3:],
                  x="memory_gb"), "every above 0%", "With the base's memory.", curve=True),
    Claim("other templates per memory", "but they perform lower with the rest of templates",
          "section 4, p. 7", "memory",
          partial(gains, models=_RESNET_INCEPTION, datasets=_C10, templates=REDISTRIBUTED[:3],
                  x="memory_gb"), "every below 0%", "With the base's memory.", curve=True),
    Claim("better per time", "the patter of improvement for VGG and MobileNet", "section 4, p. 7",
          "time", partial(best_gains, models=_VGG_MOBILENET, x="time_ms"), "every above 0%",
          "The best template, with the base's inference time.", curve=True),
    Claim("worse per time", "a degradation of inference time when adopting templates in ResNet and "
          "Inception", "section 4, p. 7", "time",
          partial(gains, models=_RESNET_INCEPTION, templates=REDISTRIBUTED[:3], x="time_ms"),
          "every below 0%", "Without Negative-Quadratic, which the text excepts.", curve=True),
    Claim("Inception per time", "Inception shows an improvement with the Negative-Quadratic "
          "template in CIFAR-10", "section 4, p. 7", "time",
          partial(gains, models=("inception",), datasets=_C10, templates=REDISTRIBUTED[3:],
                  x="time_ms"), "every above 0%", "With the base's inference time.", curve=True),
)  # fmt: skip
