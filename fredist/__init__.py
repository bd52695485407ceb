"""fredist: are this network's filters in the right layers?

Filter redistribution templates for convolutional networks, and the paper's tables and figures.
Importing this takes no time: PyTorch and timm are imported when a network is built. Where timm is
imported first it knows the networks as `fredist_vgg19` and so on; otherwise the first
`create_model`, or `import fredist.networks.registry`, tells it.
"""

import sys
import warnings

# timm's dependencies look for notebook widgets and warn where there are none: fredist's bars are
# text, and a notebook's standard error stays empty.
warnings.filterwarnings("ignore", message="IProgress not found")

from .networks import (  # noqa: E402
    Network,
    compare,
    create_model,
    departures,
    largest_width,
    make_network,
)
from .templates import TEMPLATES, apply_template  # noqa: E402

if "timm" in sys.modules:
    from .networks import registry  # noqa: F401 - importing it registers

__version__ = "0.1.0"
__all__ = [
    "TEMPLATES",
    "Network",
    "Redistribution",
    "apply_template",
    "compare",
    "create_model",
    "decide",
    "departures",
    "largest_width",
    "make_network",
    "rebuild",
    "redistribute",
]


def __getattr__(name: str):
    # What needs PyTorch to be defined at all, or pandas, only where it is asked for.
    if name in ("Redistribution", "rebuild", "redistribute"):
        from . import coupled

        return getattr(coupled, name)
    if name == "decide":
        from .verdicts import decide

        return decide
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
