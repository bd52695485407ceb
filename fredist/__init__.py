"""fredist: are this network's filters in the right layers?

Filter redistribution templates for convolutional networks, and the paper's tables and figures.
"""

import warnings

# timm's dependencies look for notebook widgets and warn where there are none: fredist's bars are
# text, and a notebook's standard error stays empty.
warnings.filterwarnings("ignore", message="IProgress not found")

from .models import compare, create_model  # noqa: E402
from .models.hook import register_with_timm  # noqa: E402
from .templates import TEMPLATES, apply_template  # noqa: E402

register_with_timm()

__version__ = "0.1.0"
__all__ = ["TEMPLATES", "apply_template", "compare", "create_model"]
