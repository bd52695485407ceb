"""Any convolutional network's filters, redistributed: trace, layers, groups, plan, build."""

from .plan import study
from .redistribute import redistribute
from .redistribution import Redistribution, rebuild

__all__ = ["Redistribution", "rebuild", "redistribute", "study"]
