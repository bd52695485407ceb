"""fredist: are this network's filters in the right layers?

Filter redistribution templates for convolutional networks, and the paper's tables and figures.
"""

from .models import compare, create_model
from .templates import TEMPLATES, apply_template

__version__ = "0.1.0"
__all__ = ["TEMPLATES", "apply_template", "compare", "create_model"]
