"""What docs/library.md says: every module has its room, and none imports in a circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import fredist

ROOT = Path(fredist.__file__).parent
MODULES = {path.relative_to(ROOT).with_suffix(""): path for path in ROOT.rglob("*.py")}


def imported(module):
    """Yield the modules of ours that a module imports when it is imported itself."""
    waiting = list(ast.parse(MODULES[module].read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ImportFrom) and node.level:
            place = (module.parent, module.parent.parent)[node.level - 1] / (
                node.module or "."
            ).replace(".", "/")
            for one in (place, place / "__init__", *(place / name.name for name in node.names)):
                if one in MODULES and one != module:
                    yield one
        elif not isinstance(node, ast.FunctionDef):
            waiting += ast.iter_child_nodes(node)


def test_modules_have_one_room_each_and_import_in_no_circle():
    page = (ROOT.parent / "docs" / "library.md").read_text(encoding="utf-8")
    rooms = [name for name in re.findall(r"`([\w/]+)`", page) if Path(name) in MODULES]
    assert sorted(rooms) == sorted(map(str, MODULES))
    graph = {module: set(imported(module)) for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)
    assert sum(map(len, graph.values())) > 100  # the graph is there
    assert max(len(path.read_text().splitlines()) for path in MODULES.values()) <= 350
