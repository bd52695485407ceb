"""Registering the networks with timm when timm is imported, before or after fredist.

timm and what it imports take seconds, which who only redistributes filters, or renders a table
from records, need not wait for.
"""

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder

_REGISTRY = f"{__package__}.registry"  # importing it registers


def register_with_timm() -> None:
    """Make `timm.create_model("fredist_<name>")` work: now, or as soon as timm is imported."""
    if "timm" in sys.modules:
        importlib.import_module(_REGISTRY)
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds nothing itself; the first import of timm is followed by that of the registry."""

    def find_spec(self, name, path=None, target=None):
        if name != "timm" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                importlib.import_module(_REGISTRY)

            spec.loader.exec_module = execute_and_register
        return spec
