"""Figures: what is drawn, what is marked or withheld, and how they are saved."""

import itertools
import os
import re
import subprocess
import sys
import zlib
from contextlib import suppress

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from pandas import DataFrame
from PIL import Image
from recording import CPU, GPU, measured, networks, timed, trained

from fredist import figures, paths, style, verdicts
from fredist.paper import MODELS, choose
from fredist.records import Store
from fredist.results import collect
from fredist.runs import COMPUTED
from fredist.tables import TEMPLATE_LABELS
from fredist.templates import TEMPLATES

WIDTHS = (1.0, 0.5, 0.25)


def curves(folder, cost="parameters", name="figure2", **chosen):
    """Return a figure of the records in a folder, of VGG-19 on CIFAR-10 if nothing else is said."""
    options = {"models": "vgg19", "datasets": "cifar10", "widths": WIDTHS} | chosen
    choices = choose(name, options.pop("profile", "smoke"), **options)
    return figures.curves(choices, collect(choices, Store([folder])), cost)


@pytest.fixture
def smoke(tmp_path):
    """Records of every VGG-19 of the smoke profile's curves: 80% at width 1.0, less below."""
    choices = choose("figure2", "smoke", models="vgg19", datasets="cifar10", widths=WIDTHS)
    for run in choices.runs():
        trained(run, tmp_path, 80.0 - 10 / run.width - TEMPLATES.index(run.template))
    return tmp_path


def line(axis, template):
    """Return the points of a template's curve, in the order in which they are joined."""
    lines = [a for a in axis.lines if a.get_label() == TEMPLATE_LABELS[template]]
    return np.transpose(lines[0].get_data()).tolist() if lines else []


def words(figure):
    return [a.get_text() for a in figure.findobj(Text) if a.get_text() and a.get_visible()]


def check_layout(figure):
    """Nothing is cut off, and the legend and the panels with their labels stand apart."""
    with style.applied():
        figure.draw_without_rendering()
        boxes = [axis.get_tightbbox() for axis in figure.axes]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        labels = [text.get_window_extent() for text in figure.texts]
    for box in boxes + labels:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


class TestFilters:
    def test_figure_1_shows_the_published_networks(self):
        frame = figures.filters_per_layer(choose("figure1", "paper"))
        of = {t: part["filters"].tolist() for t, part in frame.groupby("template")}
        base = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
        assert of["base"] == of["reverse"][::-1] == base
        assert of["uniform"] == [344] * 16
        assert (of["quadratic"][0], min(of["quadratic"]), sum(of["quadratic"])) == (512, 243, 5504)
        [axis] = figures.distributions(frame).axes
        assert line(axis, "quadratic")[0] == [1, 512]
        assert axis.get_title() == "VGG-19"
        assert "Base: 5504 filters, as published" in words(axis.figure)

    def test_figure_5_has_the_lists_that_templates_see(self):
        frame = figures.filters_per_layer(choose("figure5", "paper"))
        sums = frame.groupby("model", sort=False)["filters"].agg(["size", "sum"])
        assert sums["size"].tolist() == [16, 4, 9, 13]
        assert sums["sum"].tolist() == pytest.approx([5504, 960, 1160, 4960])
        figure = figures.distributions(frame)
        assert [len(axis.lines[0].get_ydata()) for axis in figure.axes] == [16, 4, 9, 13]
        assert not figure.legends
        check_layout(figure)

    @pytest.mark.parametrize("models", ["resnet50", "vgg19,inception", "vgg19,resnet50,inception"])
    def test_chosen_models_and_widths_are_what_is_drawn(self, models):
        choices = choose("figure1", "paper", models=models, widths="1,0.5")
        figure = figures.distributions(figures.filters_per_layer(choices))
        assert len(figure.axes) == 2 * len(choices.models)
        assert figure.axes[1].get_title().endswith(" × 0.5")
        check_layout(figure)


class TestCurves:
    def test_points_are_joined_in_the_order_of_cost(self, tmp_path):
        choices = choose("figure3", "smoke", models="vgg19", datasets="cifar10", widths=WIDTHS)
        for run in choices.runs():
            trained(run, tmp_path, 100 * run.width - 20)
        costs = {1.0: 2e9, 0.5: 1e9, 0.25: 3e9}  # the smallest network takes most, as can happen
        for cell in choices.cells():
            peak = {"tensor_peak_bytes": costs[cell.width]}
            measured(choices.network(cell), tmp_path, "training", 64, peak, COMPUTED)
        [axis] = curves(tmp_path, "memory", "figure3").axes
        assert line(axis, "base") == [[1.0, 30.0], [2.0, 80.0], [3.0, 5.0]]

    def test_each_panel_says_profile_scale_and_how_many_runs(self, smoke):
        assert "smoke, widths × 0.0625, 15 of 15 runs" in words(curves(smoke))
        (part := next(smoke.glob("*.json"))).unlink()
        assert part.name.startswith("vgg19")
        assert "smoke, widths × 0.0625, 14 of 15 runs" in words(curves(smoke))

    def test_panels_are_data_sets_by_models_and_share_accuracies(self, smoke):
        several = {"datasets": "cifar10,digits", "models": MODELS, "widths": [1.0]}
        figure = curves(smoke, **several, templates="base,uniform")
        axes = np.array(figure.axes).reshape(2, 4)
        assert axes[1, 3].get_title() == "MobileNet, Digits"
        assert [bool(axis.get_ylabel()) for axis in axes.flat] == [True, *[False] * 3] * 2
        for row in axes:
            assert all(row[0].get_shared_y_axes().joined(row[0], axis) for axis in row)
        assert words(figure).count("no runs") == 7
        assert figure.get_figwidth() == style.TEXT_WIDTH
        check_layout(figure)

    def test_bars_go_from_minimum_to_maximum_over_seeds(self, tmp_path):
        options = {"models": "vgg19", "datasets": "cifar10", "widths": [1.0, 0.5]}
        for run in choose("figure2", "paper", **options).runs():
            if run.template == "base" and (run.width == 1.0 or run.seed == 0):
                trained(run, tmp_path, 90.0 + run.seed)
        [axis] = curves(tmp_path, profile="paper", widths=[1.0, 0.5]).axes
        [bars] = [bar for bar in axis.collections if bar.get_segments()]
        [[low, high]] = bars.get_segments()
        assert (low[1], high[1]) == (90.0, 92.0)
        assert low[0] == high[0] == pytest.approx(20.035018)
        assert line(axis, "base")[-1] == [pytest.approx(20.035018), 91.0]

    def test_dashed_lines_cross_at_the_unmodified_model(self, smoke):
        [axis] = curves(smoke).axes
        vertical, horizontal = [one for one in axis.lines if one.get_linewidth() == 0.6]
        assert set(horizontal.get_ydata()) == {70.0}
        assert set(vertical.get_xdata()) == {line(axis, "base")[-1][0]}
        for kept in ({"widths": [0.5]}, {"templates": "uniform"}):
            [axis] = curves(smoke, **kept).axes
            assert not [one for one in axis.lines if one.get_linewidth() == 0.6]

    def test_points_at_chance_are_hollow_and_named(self, smoke):
        assert "at chance" not in words(curves(smoke))
        choices = choose("figure2", "smoke", models="vgg19", datasets="cifar10", seeds=1)
        for run in choices.runs():
            trained(run, smoke, 10.0 if run.template == "quadratic" else 50.0)
        figure = curves(smoke, seeds=1)
        hollow = [one for one in figure.axes[0].lines if one.get_markerfacecolor() == "white"]
        assert [one.get_marker() for one in hollow if len(one.get_xdata())] == ["v"]
        assert "at chance" in words(figure)

    def test_a_cost_is_of_one_kind_and_says_so(self, smoke):
        chosen = networks(choose("figure3", "smoke", models="vgg19", datasets="cifar10"))
        for network in chosen:
            measured(network, smoke, "training", 64, {"tensor_peak_bytes": 1e9}, COMPUTED)
        said = words(curves(smoke, "memory", "figure3"))
        assert "Memory of a training step at batch 64, computed (GB)" in said
        peaks = {"allocated_peak_bytes": 2e9, "reserved_peak_bytes": 3e9}
        measured(chosen[0], smoke, "training", 64, peaks, GPU)
        figure = curves(smoke, "memory", "figure3")
        assert sum(len(one.get_xdata()) for one in figure.axes[0].lines[:1]) == 1
        assert f"Memory of a training step at batch 64, allocated (GB)\n{GPU}" in words(figure)
        check_layout(figure)

    def test_without_measurements_a_panel_says_so(self, smoke):
        figure = curves(smoke, "time", "figure4")
        assert "not measured" in words(figure)
        assert [*figure.axes[0].get_xticks(), *figure.axes[0].get_yticks()] == []  # no scale
        assert not figure.legends
        check_layout(figure)

    def test_a_cpus_times_are_withheld_where_they_order_nothing(self, smoke):
        choices = choose("figure4", "smoke", models="vgg19", datasets="cifar10")
        for i, network in enumerate(networks(choices)):
            measured(network, smoke, "synchronised", 16, timed(10.0 + i / 10, 0.2), CPU, day=-1)
        figure = curves(smoke, "time", "figure4")
        assert "not drawn: most times\nat a width overlap" in words(figure)
        assert not figure.axes[0].lines
        check_layout(figure)
        for i, network in enumerate(networks(choices)):
            measured(network, smoke, "synchronised", 16, timed(10.0 * (i + 1), 0.01), CPU)
        figure = curves(smoke, "time", "figure4")
        assert len(line(figure.axes[0], "base")) == 3
        bars = [bar for bars in figure.axes[0].collections for bar in bars.get_segments()]
        assert (9.9, 10.1) in [tuple(bar[:, 0].round(2)) for bar in bars]  # of the first network
        assert any(f"{CPU}, 2 threads" in one for one in words(figure))

    def test_equal_times_on_cuda_are_a_result(self, smoke):
        for network in networks(choose("figure4", "smoke", models="vgg19", datasets="cifar10")):
            measured(network, smoke, "synchronised", 64, timed(10.0, 0.2), GPU)
        assert len(line(curves(smoke, "time", "figure4").axes[0], "base")) == 3

    def test_an_unknown_cost_is_an_error_that_says_so(self, smoke):
        with pytest.raises(
            ValueError, match="unknown cost 'speed'; choose from parameters, memory"
        ):
            curves(smoke, "speed")


# -- equal budgets


def gains(choices):
    """Return contrasts of made-up runs: a template's gain is its number, twice on CIFAR-100."""
    frame = collect(choices, Store([]))
    for i, row in frame[frame.kind == "trained"].iterrows():
        times = 2 if row.dataset == "cifar100" else 1
        frame.at[i, "seeds"] = {seed: times * TEMPLATES.index(row.template) for seed in (0, 1)}
    return verdicts.contrasts(frame)


def test_data_sets_stand_apart_in_contrasts_and_in_epochs():
    choices = choose("budget", "quick", datasets="cifar10,cifar100", models="mobilenet")
    figure = figures.contrasts(choices, gains(choices))
    assert [axis.get_title() for axis in figure.axes[1:3]] == [
        "MobileNet, CIFAR-10",
        "MobileNet, CIFAR-100",
    ]
    for axis, times in zip(figure.axes, (1, 1, 2, 2), strict=True):
        drawn = [a.get_xdata()[0] for a in axis.lines if len(a.get_xdata()) == 1]
        assert drawn == [1 * times, 2 * times, 3 * times, 4 * times]
    check_layout(figure)
    runs = {"dataset": ["cifar10", "cifar100"], "test_top1": [90.0, 60.0]}
    runs |= {"like": "", "width": 1.0, "model": "vgg19", "template": "base", "epoch": 1}
    figure = figures.epochs(choices, DataFrame(runs))
    assert [line(axis, "base") for axis in figure.axes] == [[[1, 90]], [[1, 60]]]
    assert figure.axes[1].get_title() == "VGG-19, CIFAR-100"


def test_epochs_are_means_over_seeds_alone():
    """Widths and budgets stand apart; at a budget a template's width is its own."""
    same = {"dataset": "cifar10", "model": "vgg19", "epoch": 1}
    runs = [
        same | {"like": "", "width": 1.0, "template": "base", "test_top1": 90.0},
        same | {"like": "", "width": 0.5, "template": "base", "test_top1": 60.0},
        same | {"like": "macs", "width": 1.0, "template": "base", "test_top1": 70.0},
        same | {"like": "macs", "width": 1.0, "template": "base", "test_top1": 80.0},
        same | {"like": "macs", "width": 0.4, "template": "uniform", "test_top1": 50.0},
    ]
    choices = choose("budget", "small", datasets="cifar10")
    figure = figures.epochs(choices, DataFrame(runs))
    assert [line(axis, "base") for axis in figure.axes] == [[[1, 90]], [[1, 60]], [[1, 75]]]
    assert line(figure.axes[2], "uniform") == [[1, 50]]
    assert [axis.get_title() for axis in figure.axes[:2]] == [
        "VGG-19, CIFAR-10",
        "VGG-19 × 0.5, CIFAR-10",
    ]
    assert "widths × 0.25, equal MACs, runs: 1 to 2" in words(figure)
    many = figures.epochs(choices, DataFrame(runs[2:3] * 10 + runs[4:] * 9))
    assert "widths × 0.25, equal MACs, runs: 9 to 10" in words(many)
    assert "Epoch, profile small" in words(figure)
    labelled = [axis.xaxis.get_tick_params()["labelbottom"] for axis in figure.axes]
    assert labelled == [False, True, True]  # below the second stands none


def test_contrasts_show_what_is_decided_and_what_their_bars_are():
    choices = choose("budget", "small", datasets="cifar10", models="vgg19")
    found = gains(choices)  # of two seeds
    row = found[found.like == "macs"].index[0]
    found.loc[row, ["low", "high", "p", "verdict"]] = [1.0, 2.0, 0.001, "gains, at this scale"]
    axis = figures.contrasts(choices, found).axes[0]
    bars = [one for one in axis.lines if len(one.get_xdata()) == 2 and one.get_marker() == "|"]
    assert [bar.get_linestyle() for bar in bars] == ["-", ":", ":", ":"]
    means = [one for one in axis.lines if len(one.get_xdata()) == 1]
    assert [one.get_markerfacecolor() == "white" for one in means] == [False, True, True, True]
    assert axis.get_ylabel() == "equal MACs"
    assert "widths × 0.25, 8 of 20 pairs" in words(axis.figure)


@pytest.mark.parametrize(
    ("templates", "said"),
    [("base", "the base alone is chosen"), ("uniform,reverse", "no base to compare with")],
)
def test_without_anything_to_compare_a_panel_says_so(templates, said):
    choices = choose("budget", "quick", datasets="cifar10", templates=templates)
    figure = figures.contrasts(choices, gains(choices))
    assert words(figure).count(said) == len(figure.axes) == 4
    assert "no runs" in words(figures.epochs(choices, collect(choices, Store([])).head(0)))


# -- style and files

DRAW = """
import sys
from pathlib import Path
from fredist.figures import distributions, filters_per_layer, save
from fredist.paper import MODELS, choose
choices = choose("figure1", "paper", templates="base,quadratic")
frame = filters_per_layer(choices)
save(distributions(frame), choices, frame, Path(sys.argv[1]))
"""


def test_templates_differ_by_colour_in_grey_too_and_by_marker_and_line():
    looks = style.TEMPLATE_LOOKS.values()
    assert tuple(style.TEMPLATE_LOOKS) == TEMPLATES
    for what in ("color", "marker", "linestyle"):
        assert len({look[what] for look in looks}) == len(TEMPLATES)
    grey = sorted(np.dot(to_rgb(look["color"]), (0.299, 0.587, 0.114)) for look in looks)
    assert min(np.diff(grey)) > 0.02


def test_the_style_ends_with_its_block_and_ignores_the_users_settings():
    with matplotlib.rc_context({"lines.linewidth": 9, "figure.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        with style.applied():
            assert matplotlib.rcParams["lines.linewidth"] == 1.0
            assert matplotlib.rcParams["figure.facecolor"] == "white"
        assert dict(matplotlib.rcParams) == before
    found = font_manager.findfont(style.STYLE["font.family"], fallback_to_default=False)
    assert found.startswith(matplotlib.get_data_path())


def test_another_process_with_other_settings_and_another_date_saves_the_same_bytes(tmp_path):
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 20\npdf.fonttype: 3\nsavefig.bbox: tight\naxes.grid: False\n")
    other = {"PYTHONHASHSEED": "2", "MATPLOTLIBRC": str(settings), "SOURCE_DATE_EPOCH": "0"}
    command = [sys.executable, "-c", DRAW, str(tmp_path / "there")]
    subprocess.run(command, cwd=paths.ROOT, env=os.environ | other, check=True)
    choices = choose("figure1", "paper", templates="base,quadratic")
    frame = figures.filters_per_layer(choices)
    figure = figures.distributions(frame)
    for _ in range(2):  # saving a figure again changes nothing either
        saved = figures.save(figure, choices, frame, tmp_path / "here")
    assert [path.name for path in saved] == [
        f"figure1-base-quadratic.{kind}" for kind in ("csv", "pdf", "png")
    ]
    for path in saved:
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()
    assert saved[0].read_text().startswith("model,template,width,layer,filters\nvgg19,base,1,1,64")


def test_files_have_the_size_asked_for_truetype_fonts_and_no_date_or_version():
    choices = choose("figure1", "paper")
    frame = figures.filters_per_layer(choices)
    csv, pdf, png = figures.save(figures.distributions(frame), choices, frame)
    assert csv == paths.figures_folder() / "paper" / "figure1.csv"  # a part's has a suffix
    data = pdf.read_bytes()
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        with suppress(zlib.error):  # not compressed
            data += zlib.decompress(stream)
    assert f"/MediaBox [ 0 0 {style.COLUMN_WIDTH * 72:g} ".encode() in data
    assert b"/FontFile2" in data
    assert not re.search(rb"/Subtype\s*/Type3", data)
    assert b"CreationDate" not in data
    assert b"matplotlib" not in data.lower()
    assert Image.open(png).size[0] == style.COLUMN_WIDTH * style.DPI
    assert not Image.open(png).text


def test_a_figure_that_cannot_be_drawn_leaves_the_earlier_files_as_they_were(tmp_path):
    choices = choose("figure1", "paper")
    frame = figures.filters_per_layer(choices)
    saved = figures.save(figures.distributions(frame), choices, frame, tmp_path)
    before = [path.read_bytes() for path in saved]
    broken = Figure()
    broken.subplots().set_title(r"$\nosuchcommand$")
    with pytest.raises(ValueError, match="nosuchcommand"):
        figures.save(broken, choices, frame.head(1), tmp_path)
    assert [path.read_bytes() for path in saved] == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["figure1", "figure5"])
def test_a_notebook_shows_a_figure_without_any_backend(name):
    from IPython.core.formatters import DisplayFormatter

    figure = figures.distributions(figures.filters_per_layer(choose(name, "paper")))
    shown, _ = DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
