"""Notebooks: their parameters, executing them, publishing them, and copies to explore."""

import ast
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

from .checks import check_choice, check_flag
from .paper import DEVICES, EXPERIMENTS, Choices, choose
from .paths import NOTEBOOKS, ROOT, clear, make_absolute, need_checkout, write_whole
from .progress import PLAIN
from .records import Store

CHECKED = "# NBVAL_CHECK_OUTPUT"  # how cells begin whose output is the same each time
EXPLORE = ROOT / "explore"  # ignored by git
# It can be interrupted also where a shell's background jobs, and so all they start, cannot; and is
# without a package that jsonschema can do without, and that takes a second to import.
_PAPERMILL = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
_PAPERMILL += "sys.modules['rfc3987_syntax'] = None; import papermill.__main__ as m; m.papermill()"
CHOICES = ("datasets", "models", "templates", "widths", "seeds", "device")
PARAMETERS = ("profile", *CHOICES, "train")


def settle(name: str, namespace: Mapping) -> Choices:
    """Return the checked choices that a notebook's parameters make, in the cell after them.

    Any other name assigned there, or by papermill, is an error, as is a value that is none, and one
    that the table or figure has no use for. Their cell is the last that assigns one of them,
    computed or not: what other cells put into the namespace plays no part, and cells can be run
    again in any order.

    Examples
    --------
    >>> settle("figure1", {"profile": "smoke", "models": "resnet50"}).models
    ('resnet50',)
    """
    own_names = ("profile", *EXPERIMENTS[name].choices, "train")
    cells: list[list[str]] = []  # the parameters', then papermill's, or literals set just before
    near = True  # back to here nothing is done but assigning literals
    for source in reversed(namespace.get("In", [])[:-1]):
        names = None if "settle(" in source else _assigned(source)  # it may set parameters, too
        passed = source.startswith("# Parameters")  # as papermill's begins
        if names is None and cells:
            if "settle(" not in source:
                break
            cells = []  # what is assigned after the choices were settled is the user's own
        near = near and names is not None
        own = not passed and not {*PARAMETERS}.isdisjoint(names or ())
        if names and (own or passed or near):
            cells.insert(0, names)
        if own:
            break
    for names in cells:
        for one in names:  # papermill may set no other than the notebook has
            check_choice("parameter", one, own_names if names is cells[0] else cells[0])
    given = {one: namespace[one] for one in own_names if one in namespace}
    check_flag("train", given.pop("train", False))
    choices = choose(name, **given)
    check_device(choices)
    return choices


def check_device(choices: Choices) -> None:
    """Refuse to show what was made on a device that no record names."""
    if not choices.here:
        check_choice("device", choices.device, (*DEVICES, *Store().devices()))


def _assigned(source: str) -> list[str] | None:
    """Return the names that a cell assigns; None for one that is none of parameters.

    Such a cell assigns one of them, or nothing but literals; imports beside make no difference.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic
        return None
    body = [one for one in body if not isinstance(one, ast.Import | ast.ImportFrom)]
    made = [one for one in body if isinstance(one, ast.Assign | ast.AnnAssign)]
    targets = [target for one in made for target in getattr(one, "targets", None) or [one.target]]
    nodes = [node for target in targets for node in ast.walk(target)]  # of a, b = 1, 2 each
    names = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    try:
        [ast.literal_eval(one.value) for one in body]
    except (ValueError, TypeError, AttributeError):  # computed, or no assignment
        return None if {*PARAMETERS}.isdisjoint(names) else names
    return names


def parameters_of(name: str) -> list[str]:
    """Return the parameters that a committed notebook has: what its experiment has a use for."""
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    tagged = [c["source"] for c in cells if "parameters" in c["metadata"].get("tags", [])]
    return [one for source in tagged for one in _assigned("".join(source)) or []]


def execute(source: Path, target: Path, parameters: Mapping | None = None, **variables: str) -> str:
    """Execute a notebook into `target`, and return what its checked cells show, as text.

    It runs in this environment's kernel, whatever kernels, start-up files and settings the user
    has, in the folder of `source`, with `variables` in its environment. Ctrl-C ends it. A
    `RuntimeError` names the cell that failed, and what was at `target` stays.
    """
    clear(target.parent)
    with tempfile.TemporaryDirectory(prefix="fredist-") as scratch:
        output = Path(scratch) / "executed.ipynb"
        command = [sys.executable, "-c", _PAPERMILL, source.name, output, "--kernel", "python3"]
        command += ["--no-progress-bar", "--parameters_yaml", json.dumps(dict(parameters or {}))]
        own = {"IPYTHONDIR": scratch, "JUPYTER_RUNTIME_DIR": scratch, PLAIN: "1"}
        # Start-up files would define names, and a backend of the user's own shows no figures.
        own |= {"PYTHONSTARTUP": "", "MPLBACKEND": "", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        options = {"env": _environment() | own | variables, "stdin": DEVNULL, "stdout": DEVNULL}
        # In a session of its own a Ctrl-C reaches it by way of this process, and what its event
        # loop then has to say is nobody's concern.
        process = Popen(command, cwd=source.parent, stderr=PIPE, start_new_session=True, **options)
        try:
            printed = process.communicate()[1].decode(errors="replace").strip()
        finally:
            _end(process)
        failed = process.returncode and (printed or f"status {process.returncode}").splitlines()[-1]
        if failed and failed.endswith("Kernel died"):
            failed = "its kernel died, killed perhaps because memory ran out"
        texts = []
        for cell in clean(output) if output.exists() else ():
            for shown in cell.get("outputs", ()):
                if shown["output_type"] == "error":
                    failed = f"cell [{cell['execution_count']}] failed with {shown['ename']}: "
                    failed = (failed + shown["evalue"]).rstrip(": ")
                elif "".join(cell["source"]).startswith(CHECKED):
                    texts.append(shown.get("text") or shown.get("data", {}).get("text/plain", ""))
        if failed:
            raise RuntimeError(f"{source.name} did not finish: {failed}")
        write_whole(target, output.read_bytes())
    return "\n".join("".join(text).rstrip("\n") for text in texts if text)


def _environment() -> dict[str, str]:
    """Return the variables with which Jupyter finds this fredist and this environment's kernel."""
    make_absolute()
    places = (("PYTHONPATH", ROOT), ("JUPYTER_PATH", Path(sys.prefix, "share", "jupyter")))
    before = {name: filter(None, [str(place), os.environ.get(name)]) for name, place in places}
    return os.environ | {name: os.pathsep.join(paths) for name, paths in before.items()}


def _end(process: Popen) -> None:
    """End papermill if it still runs: politely, for it ends its kernel, which else ends alone."""
    try:
        process.send_signal(signal.SIGINT)  # nothing happens to one that has ended
        with suppress(TimeoutExpired):
            process.wait(timeout=10)
    finally:  # also of the impatient, at a second Ctrl-C
        process.kill()
        process.wait()


def clean(path: Path) -> list[dict]:
    """Take out of an executed notebook what differs by execution, and return its cells."""
    notebook = json.loads(path.read_text(encoding="utf-8"))  # importing nbformat takes a second
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook["cells"]):
        tags = cell["metadata"].get("tags")
        cell |= {"id": f"cell-{number}", "metadata": {"tags": tags} if tags else {}}
        if outputs := cell.get("outputs"):
            cell["outputs"] = outputs[:1]
            for one in outputs[1:]:
                before = cell["outputs"][-1]
                if "name" in one and one["name"] == before.get("name"):  # arrived in pieces
                    before["text"] += one["text"]
                else:
                    cell["outputs"].append(one)
    write_whole(path, json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return notebook["cells"]


def publish() -> None:
    """Remake the committed notebooks, tables, figures and page, from the shipped records alone."""
    need_checkout("the notebooks")
    order, figures = list(EXPERIMENTS), ROOT / "paper_figures"
    sources = sorted(NOTEBOOKS.glob("*.ipynb"), key=lambda p: [*order, p.stem].index(p.stem))
    with tempfile.TemporaryDirectory(prefix="fredist-") as name:
        scratch = Path(name)
        own = {f"FREDIST_{one.upper()}": f"{name}/{one}" for one in ("runs", "figures", "data")}
        for source in sources:
            print(f"executing {source.name}", flush=True)
            execute(source, scratch / source.name, **own)
        made = [(scratch / source.name, source) for source in sources]  # all, or none is replaced
        made += [(path, figures / path.name) for path in sorted(scratch.glob("figures/*/*"))]
        for path, target in made:
            write_whole(target, path.read_bytes())
    text = page(sources)
    write_whole(figures / "notebooks.html", text)
    print(f"all notebooks on one page: notebooks.html, {len(text) / 1e6:.1f} MB")


def page(sources: Sequence[Path]) -> str:
    """Return one HTML page of executed notebooks; its equations need a network, for MathJax."""
    import nbformat  # as nbconvert, takes a second
    from nbconvert import HTMLExporter

    new, contents = nbformat.v4.new_markdown_cell, ["# fredist: the paper in notebooks\n"]
    cells = []
    for source in sources:
        own = nbformat.read(source, as_version=4).cells
        contents.append(f"- [{own[0].source.splitlines()[0].lstrip('# ')}](#{source.stem})")
        for number, cell in enumerate(own):
            cell["id"] = f"{source.stem}-{number}"
            if cell.cell_type == "markdown":  # links between notebooks stay on the page
                cell.source = re.sub(r"\]\((\w+)\.ipynb\)", r"](#\1)", cell.source)
        cells += [new(f'<hr id="{source.stem}">', id=source.stem), *own]
    cells.insert(0, new("\n".join(contents), id="contents"))
    merged = nbformat.v4.new_notebook(cells=cells)
    return HTMLExporter().from_notebook_node(merged, {"metadata": {"name": "fredist"}})[0]


def lab(options: Sequence[str] = ()) -> None:
    """Become JupyterLab on copies of the notebooks, so that saving changes no tracked file."""
    need_checkout("the notebooks")
    print("\n".join(copy_notebooks()), flush=True)
    command = [sys.executable, "-m", "jupyterlab", str(EXPLORE), *options]
    os.execve(sys.executable, command, _environment())


def copy_notebooks() -> list[str]:
    """Bring the copies in `explore/` up to date, but those that the user has saved; say which."""
    said = [f"copies of the notebooks to explore: {EXPLORE}"]
    for source in sorted(NOTEBOOKS.glob("*.ipynb")):
        # What was copied is kept beside, to tell an old copy from one that is the user's by now.
        paths = (source, EXPLORE / source.name, EXPLORE / ".copied" / source.name)
        new, mine, copied = (path.read_bytes() if path.exists() else None for path in paths)
        if mine not in (None, new, copied):
            said.append(f"{source.name} stays as you saved it; renamed, it comes anew")
        elif (mine, copied) != (new, new):
            for path in paths[1:]:
                write_whole(path, new)
    return said
