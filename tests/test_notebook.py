"""Notebooks' parameters, and executing small ones in real kernels."""

import json
import os
import re
import sys
from itertools import product

import nbformat
import pytest

from fredist import notebook, paths
from fredist.notebook import clean, execute, page, settle
from fredist.paper import EXPERIMENTS, MODELS
from fredist.recipes import PROFILES
from fredist.templates import TEMPLATES

SETTLE = "from fredist.notebook import settle\nchosen = settle('table1', globals())\nprint(chosen)"


def write(path, *sources, **metadata):
    """Write a notebook whose first cell holds its parameters."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata = {"tags": ["parameters"]} | metadata
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def shown(path):
    """Return what the cells of an executed notebook have printed."""
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.get("text", "") for c in cells for o in c.get("outputs", []))


def ipython(*cells):
    """Return the namespace after the cells, as IPython has it when one more cell runs."""
    namespace = {"In": ["", *cells, "choices = settle('table1', globals())"], "exit": exit}
    for source in cells:
        exec(source, namespace)
    return namespace


def test_choices_are_what_the_parameters_say_however_they_are_passed():
    namespace = {"profile": "smoke", "models": "vgg19", "datasets": ["digits"], "train": False}
    for seeds in (1, "1", [1], (1,)):
        chosen = settle("table1", namespace | {"seeds": seeds})
        assert (chosen.models, chosen.datasets, chosen.seeds) == (("vgg19",), ("digits",), (1,))
    assert settle("table1", namespace | {"seeds": "0,1"}).seeds == (0, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "model = 'vgg19'",
            "'model' .did you mean 'models'.*choose from profile, datasets, models",
        ),
        ("epochs = 3", "unknown parameter 'epochs'; choose from profile, datasets, models"),
        ("widths = [0.5]", "unknown parameter 'widths'; choose from profile, datasets, models"),
        ("train = 1", "True or False as train, got 1"),
        ("device = 0", "device"),
        ("device = 'gpu'", "unknown device 'gpu'.*choose from cpu, cuda"),
        ("seeds = []", "at least one of seeds"),
        ("models = ['vgg-19']", "did you mean 'vgg19'"),
    ],
)
def test_a_wrong_parameter_is_an_error_that_names_the_right_ones(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        settle("table1", ipython(f"profile = 'smoke'\n{given}"))


@pytest.mark.parametrize(
    "cells",
    [
        ["profile = 'smoke'\nseed = list(range(5))"],
        ["import math\nprofile: str = 'smoke'\nseed = 3\nprint(profile)"],
        ["profile, seed = 'smoke', 3"],
        ["profile = 'smoke'\nseed = 3", "# a comment", "import math", "frame = list(range(3))"],
        ["profile = 'smoke'\nseeds = None", "# Parameters\nseed = 3\n", "frame = list(range(3))"],
    ],
)
def test_a_wrong_parameter_is_an_error_also_beside_what_is_computed_or_in_an_earlier_cell(cells):
    with pytest.raises(ValueError, match=r"parameter 'seed' .did you mean 'seeds'"):
        settle("table1", ipython(*cells))


def test_cells_can_be_run_again_in_any_order():
    parameters = 'profile = "smoke"\nmodels = ["vgg19"]\nseeds = None'
    assert settle("table1", ipython(parameters)).models == ("vgg19",)
    exercise = 'model = "vgg19"\nfor seed in (1, 2): frame = [seed]'
    again = settle("table1", ipython(parameters, exercise, parameters.replace("vgg19", "resnet50")))
    assert again.models == ("resnet50",)
    assert settle("table1", ipython(parameters, exercise)).models == ("vgg19",)
    literals = ipython(parameters, "choices = None", "model = 3", "frame = list(range(model))")
    assert settle("table1", literals).models == ("vgg19",)
    scratch = ipython(parameters, SETTLE.replace("'table1'", "'figure2'"), "x = 3")
    assert settle("table1", scratch).models == ("vgg19",)
    with pytest.raises(ValueError, match=r"'model' .did you mean 'models'"):
        settle("table1", ipython(parameters.replace("models", "model"), "# settle(", "x = 3"))
    together = ipython(parameters, f"models = ['resnet50']\n{SETTLE}")
    assert settle("table1", together).models == ("resnet50",)
    settled = ipython(parameters.replace("models", "model"), exercise, parameters, exercise)
    assert settle("table1", settled).models == ("vgg19",)
    with pytest.raises(ValueError, match=r"'model' .did you mean 'models'"):
        settle("table1", ipython(exercise, parameters.replace("models", "model")))
    with pytest.raises(ValueError, match=r"'seeds'; choose from profile, models$"):  # papermill's
        settle("table1", ipython("profile = 'smoke'\nmodels = None", "# Parameters\nseeds = [0]\n"))


def test_papermill_passes_parameters_and_what_is_made_is_clean(tmp_path):
    text = 'profile = "auto"\nmodels = None\nseeds = None'
    slowly = "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.2)"
    source, made = write(tmp_path / "a.ipynb", text, SETTLE, slowly, other=1), tmp_path / "b.ipynb"
    given = {"profile": "smoke", "models": ["vgg19"], "seeds": "0,1"}
    assert execute(source, made, given) == ""  # no cell is checked
    for words in ("profile_name='smoke'", "models=('vgg19',)", "seeds=(0, 1)"):
        assert words in shown(made)
    before = made.read_bytes()
    assert b"papermill" not in before
    clean(made)
    assert made.read_bytes() == before
    cells = nbformat.read(made, as_version=4).cells
    assert cells[0].metadata == {"tags": ["parameters"]}
    assert [output.text for output in cells[-1].outputs] == ["0\n1\n2\n"]  # in one piece


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *product(("figure2", "figure3", "figure4", "budget"), ({"templates": ["uniform"]},)),
        *product(("figure2", "budget"), ({"templates": ["base"]},)),
        *product(("figure2", "figure3", "figure4"), ({"widths": [0.5]},)),
    ],
)
def test_a_notebook_executes_for_a_part_without_the_base_or_its_width(name, part):
    namespace = {}
    for cell in json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            namespace |= {"profile": "smoke", "datasets": ["cifar10"], "models": ["vgg19"]} | part
    assert namespace["choices"].suffix  # the part did take effect


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "figure2", "figure3", "figure4"])
def test_a_notebook_that_trains_makes_all_that_it_shows(name, capsys):
    """Runs of smoke ship; costs of networks that small are made here, on this machine."""
    namespace, part = {}, {"models": ["vgg19"], "templates": ["base"], "train": True}
    if name.startswith("figure"):
        part |= {"widths": [1.0]}
    if name != "table3":
        part |= {"datasets": ["tiny-imagenet-subset" if name == "table2" else "cifar10"]}
    cells = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        exec("".join(cell["source"]), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            namespace |= {"profile": "smoke"} | part
        if "frame" in namespace:
            break
    assert re.search(r"asked=[1-9]\d*, .*left=0, failed={}", capsys.readouterr().out)
    ours = namespace["frame"].query("n > 0 and kind != 'published'")
    shown = {quantity.partition("_")[0] for quantity in ours.quantity}
    trained = ["top1"] if EXPERIMENTS[name].trained else []
    assert shown >= {*EXPERIMENTS[name].measured, *trained}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_comment_beside_a_parameter_lists_what_can_be_chosen(name):
    cells = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    lines = next(c["source"] for c in cells if "parameters" in c["metadata"].get("tags", ()))
    said = {
        line.partition(" ")[0]: re.findall("[a-z0-9_-]+", line.partition("#")[2]) for line in lines
    }
    can = {"models": MODELS, "templates": TEMPLATES, "datasets": EXPERIMENTS[name].datasets}
    if EXPERIMENTS[name].trained:  # else a profile only names a folder
        can["profile"] = PROFILES
    for parameter in said.keys() & can.keys():
        assert set(said[parameter]) >= set(can[parameter])


def test_nothing_of_the_users_jupyter_reaches_a_notebook(tmp_path, monkeypatch):
    """Other kernels of that name, start-up files, a broken configuration, another fredist."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "a.py").write_text("seed = 3\nprint('start-up')")
    (startup.parent / "ipython_config.py").write_text("raise RuntimeError('broken')")
    (startup.parent / "ipython_kernel_config.py").write_text("raise RuntimeError('broken')")
    (tmp_path / "other" / "fredist").mkdir(parents=True)
    (tmp_path / "other" / "fredist" / "__init__.py").write_text("raise RuntimeError('another')")
    places = {"JUPYTER_PATH": "jupyter", "JUPYTER_DATA_DIR": "jupyter", "IPYTHONDIR": "ipython"}
    places |= {"PYTHONSTARTUP": startup / "a.py", "PYTHONPATH": "other", "MPLBACKEND": "Agg"}
    for variable, place in places.items():
        monkeypatch.setenv(variable, str(tmp_path / place))
    folder = tmp_path / "a folder {x} é"
    folder.mkdir()
    sources = "import sys, fredist\nprint(sys.executable, fredist.__file__, 'seed' in globals())"
    execute(write(folder / "a.ipynb", sources), folder / "made" / "b.ipynb")
    executable, *rest = shown(folder / "made" / "b.ipynb").split()
    assert os.path.samefile(executable, sys.executable)
    assert rest == [str(paths.PACKAGE / "__init__.py"), "False"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SETTLE, r"cell \[3\] failed with ValueError: unknown parameter 'model'"),
        ("import os; os.kill(os.getpid(), 9)", "its kernel died, killed"),
        ("raise SystemExit", r"cell \[3\] failed with SystemExit$"),
    ],
)
def test_what_fails_is_named_and_leaves_what_was_there(tmp_path, source, words):
    target = tmp_path / "made" / "a.ipynb"
    target.parent.mkdir()
    target.write_text("as before")
    left = [target.parent / f".a.ipynb.{digit * 32}.tmp" for digit in "01"]
    for path in left:
        path.write_text("torn")
    os.utime(left[0], (0, 0))
    with pytest.raises(RuntimeError, match=f"a.ipynb did not finish: {words}"):
        execute(write(tmp_path / "a.ipynb", "profile = 'smoke'", source), target, {"model": "x"})
    assert target.read_text() == "as before"
    assert sorted(target.parent.iterdir()) == [left[1], target]  # the other may be in use


def test_one_page_shows_all_notebooks_and_is_the_same_each_time(tmp_path):
    sources = []
    for name in ("one", "two"):
        text = f"# Title of {name}\nas in [the other](one.ipynb), $x^2$"
        output = nbformat.v4.new_output("stream", text=f"shown by {name}")
        code = nbformat.v4.new_code_cell("print()", outputs=[output], id="second")
        cells = [nbformat.v4.new_markdown_cell(text, id="first"), code]
        sources.append(tmp_path / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), sources[-1])
    made = page(sources)
    assert made == page(sources)
    assert all(words in made for words in ('<a href="#two">Title of two</a>', "shown by two"))
    assert made.count('<hr id="two"') == 1
    assert made.count('<a href="#one">the other</a>') == 2
    assert "ipynb" not in made


def test_copies_to_explore_are_refreshed_until_the_user_changes_them(tmp_path, monkeypatch):
    committed, explore = tmp_path / "notebooks", tmp_path / "explore"
    committed.mkdir()
    monkeypatch.setattr(notebook, "NOTEBOOKS", committed)
    monkeypatch.setattr(notebook, "EXPLORE", explore)
    for name in ("a", "b"):
        (committed / f"{name}.ipynb").write_text("first")
    notebook.copy_notebooks()
    (explore / "b.ipynb").write_text("mine")
    for name in ("a", "b"):
        (committed / f"{name}.ipynb").write_text("second")
    said = "\n".join(notebook.copy_notebooks())
    assert (explore / "a.ipynb").read_text() == "second"
    assert (explore / "b.ipynb").read_text() == "mine"
    assert ("a.ipynb" in said, "b.ipynb" in said) == (False, True)
    (explore / ".copied" / "b.ipynb").unlink()
    notebook.copy_notebooks()
    assert (explore / "b.ipynb").read_text() == "mine"
    (explore / "b.ipynb").rename(explore / "mine.ipynb")
    notebook.copy_notebooks()
    assert (explore / "b.ipynb").read_text() == "second"


@pytest.mark.parametrize(
    "path", sorted(paths.NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_ends_with_an_exercise_and_has_no_long_cell(path):
    cells = nbformat.read(path, as_version=4).cells
    assert "## Exercise" in cells[-1].source
    assert max(len(cell.source.splitlines()) for cell in cells) <= 30
