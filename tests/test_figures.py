import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from fredist import figures, style
from fredist.experiments import WIDTHS
from fredist.models import FAMILIES, redistribute
from fredist.models.families import INCEPTION_MEANS
from fredist.templates import TEMPLATES

X = "params_millions"


def filters(frame, model, template, convention="equations"):
    keys = zip(frame["model"], frame["template"], frame["convention"], strict=True)
    return frame["filters"][[key == (model, template, convention) for key in keys]].tolist()


def grid(datasets=("cifar10", "cifar100"), models=tuple(FAMILIES), widths=WIDTHS, n=3):
    """Return a point for every template and width, in no order."""
    rows = [
        {"dataset": d, "model": m, "template": t, "width": w, "n": n, "mean": 90 - k - i}
        | {"min": 89.5 - k - i, "max": 90.25 - k - i, X: 20 * w**2 * (1 - k / 10)}
        for d in datasets
        for m in models
        for k, t in enumerate(TEMPLATES)
        for i, w in enumerate(widths)
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def draw(frame, **options):
    return figures.curves(frame, X, "Parameters (millions)", **options)


def curve(axis, template):
    [line] = [a for a in axis.lines if a.get_label() == style.TEMPLATE_STYLES[template].label]
    return np.transpose(line.get_data()).tolist()


def bars(axis):
    """Return each bar's colour, cost, minimum and maximum."""
    return {
        (to_rgb(bar.get_color()[0]), *segment[0], segment[1][1])
        for bar in axis.collections
        for segment in bar.get_segments()
    }


def crosses(axis):
    return [line for line in axis.lines if line.get_label().startswith("_")]


def words(figure):
    return [a.get_text() for a in figure.findobj(Text) if a.get_text() and a.get_visible()]


def check_layout(figure):
    """Nothing is cut off, and the legend and the panels with their labels stand apart."""
    with style.applied():
        figure.draw_without_rendering()
        boxes = [axis.get_tightbbox() for axis in figure.axes]
        boxes += [legend.get_window_extent() for legend in figure.legends]
    page = figure.bbox
    for box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0 < box.y1 <= page.y1
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[:i])


class TestFiltersPerLayer:
    def test_vgg19_under_the_templates_is_exact(self):
        frame = figures.filters_per_layer(["vgg19"])
        base = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
        assert filters(frame, "vgg19", "base") == base
        assert filters(frame, "vgg19", "reverse") == base[::-1]
        assert filters(frame, "vgg19", "uniform") == [344] * 16
        quadratic = filters(frame, "vgg19", "quadratic")
        assert quadratic[:8] == [811, 624, 464, 331, 224, 144, 91, 64]
        assert quadratic == quadratic[::-1]
        capped = filters(frame, "vgg19", "quadratic", "published")
        assert (capped[0], min(capped), sum(capped)) == (512, 243, 5504)
        negative = filters(frame, "vgg19", "negative_quadratic")
        assert (negative[0], max(negative), sum(negative)) == (64, 512, 5504)

    def test_a_convention_has_rows_of_its_own_only_where_it_is_another_network(self):
        published = figures.filters_per_layer().query("convention == 'published'")
        pairs = published[["model", "template"]].drop_duplicates()
        assert list(pairs.itertuples(index=False, name=None)) == [
            ("vgg19", "quadratic"),
            ("resnet50", "uniform"),
        ]

    def test_the_base_distributions_are_the_lists_that_templates_see(self):
        frame = figures.filters_per_layer(None, ["base"])
        sums = frame.groupby("model", sort=False)["filters"].agg(["size", "sum"])
        assert sums["size"].to_dict() == {
            "vgg19": 16,
            "resnet50": 4,
            "inception": 9,
            "mobilenet": 13,
        }
        assert sums["sum"].tolist() == pytest.approx([5504, 960, 1160, 4960])
        assert filters(frame, "inception", "base") == pytest.approx(
            [float(f) for f in INCEPTION_MEANS]
        )

    def test_width_scales_as_the_networks_do(self):
        frame = figures.filters_per_layer(["mobilenet"], ["quadratic"], width=0.5)
        expected = redistribute("mobilenet", "quadratic", 0.5)
        assert filters(frame, "mobilenet", "quadratic") == list(expected)

    def test_names_that_do_not_exist_are_errors(self):
        with pytest.raises(ValueError, match="unknown model 'vgg'"):
            figures.filters_per_layer(["vgg"])

    def test_the_text_has_a_column_for_each_network_with_its_sum(self):
        lines = figures.to_text(figures.filters_per_layer(["vgg19"])).splitlines()
        assert "Quadratic, as published" in lines[0]
        assert lines[1].split() == ["1", "64", "512", "344", "811", "512", "64"]
        assert lines[17].split() == ["sum", "5504", "5504", "5504", "5506", "5504", "5504"]
        lines = figures.to_text(figures.filters_per_layer(None, ["base"])).splitlines()
        assert lines[1].split() == ["1", "64", "64", "61.3333", "32"]
        assert lines[16].split() == ["16", "512"]
        assert lines[17].split() == ["sum", "5504", "960", "1160", "4960"]
        assert max(map(len, lines)) <= 100


class TestDistributions:
    def test_figure_1_has_a_curve_for_each_network_and_the_published_one_thin(self):
        figure = figures.distributions(figures.filters_per_layer(["vgg19"]))
        lines = {line.get_label(): line for line in figure.axes[0].lines}
        assert curve(figure.axes[0], "uniform") == [[layer, 344] for layer in range(1, 17)]
        assert lines["Quadratic"].get_ydata()[0] == 811
        published = lines["Quadratic, as published"]
        assert published.get_ydata()[0] == 512
        assert published.get_color() == lines["Quadratic"].get_color()
        assert published.get_linewidth() < lines["Quadratic"].get_linewidth()
        [legend] = figure.legends
        assert {text.get_text() for text in legend.get_texts()} == set(lines)

    def test_figure_5_has_a_panel_for_each_model_and_needs_no_legend(self):
        figure = figures.distributions(figures.filters_per_layer(None, ["base"]))
        assert [axis.get_title() for axis in figure.axes] == [
            "VGG-19",
            "ResNet-50",
            "Inception",
            "MobileNet",
        ]
        assert [len(axis.lines[0].get_ydata()) for axis in figure.axes] == [16, 4, 9, 13]
        assert [list(axis.get_xticks())[-1] for axis in figure.axes] == [16, 4, 9, 13]
        assert not figure.legends

    @pytest.mark.parametrize("templates", [None, ["base"]])
    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_any_number_of_models_fits_a_column(self, number, templates):
        models = list(FAMILIES)[:number]
        figure = figures.distributions(figures.filters_per_layer(models, templates))
        assert figure.get_figwidth() == 3.25
        assert len(figure.axes) == number
        check_layout(figure)


class TestCurves:
    def test_panels_are_data_sets_by_models_with_labels_once(self):
        figure = draw(grid())
        assert [axis.get_title() for axis in figure.axes[:2]] == [
            "VGG-19, CIFAR-10",
            "ResNet-50, CIFAR-10",
        ]
        assert figure.axes[7].get_title() == "MobileNet, CIFAR-100"
        assert [bool(axis.get_ylabel()) for axis in figure.axes] == [True, *[False] * 3] * 2
        assert [bool(axis.get_xlabel()) for axis in figure.axes] == [False] * 4 + [True] * 4
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [
            look.label for look in style.TEMPLATE_STYLES.values()
        ]

    def test_a_curve_goes_through_its_means_in_the_order_of_cost(self):
        frame = grid(["cifar10"], ["vgg19"], (0.5, 1.6, 1.0))
        [axis] = draw(frame).axes
        assert curve(axis, "base") == [[5.0, 90], [20.0, 88], [pytest.approx(51.2), 89]]

    def test_bars_go_from_minimum_to_maximum_where_there_are_several_seeds(self):
        frame = grid(["cifar10"], ["vgg19"], (1.0, 0.5))
        frame.loc[frame["width"] == 0.5, "n"] = 1
        [axis] = draw(frame).axes
        looks = style.TEMPLATE_STYLES.values()
        expected = {
            (look.color, 20 * (1 - k / 10), 89.5 - k, 90.25 - k) for k, look in enumerate(looks)
        }
        assert bars(axis) == expected

    def test_equal_accuracies_are_no_error(self):
        frame = grid(["cifar10"], ["vgg19"]).assign(mean=sum([0.1] * 3) / 3, min=0.1, max=0.1)
        draw(frame)

    def test_dashed_lines_cross_at_the_unmodified_model(self):
        [axis] = draw(grid(["cifar10"], ["vgg19"])).axes
        vertical, horizontal = crosses(axis)
        assert set(vertical.get_xdata()) == {20.0}
        assert set(horizontal.get_ydata()) == {88}
        assert vertical.is_dashed()
        assert horizontal.is_dashed()

    def test_without_the_unmodified_model_nothing_crosses(self):
        frame = grid(["cifar10"], ["vgg19"])
        for kept in ("template != 'base'", "width != 1.0"):
            [axis] = draw(frame.query(kept)).axes
            assert not crosses(axis)

    def test_points_without_a_record_or_a_cost_are_left_out(self):
        frame = grid(["cifar10"], ["vgg19"], (1.0, 0.5, 0.25)).astype({"mean": object})
        uniform = frame["template"] == "uniform"
        frame.loc[uniform & (frame["width"] == 1.0), ["n", "mean", "min", "max"]] = [
            0,
            None,
            None,
            None,
        ]
        frame.loc[uniform & (frame["width"] == 0.5), X] = None
        frame.loc[frame["template"] == "reverse", "n"] = 0
        figure = draw(frame)
        assert curve(figure.axes[0], "uniform") == [[1.0, 86]]
        assert curve(figure.axes[0], "reverse") == []
        assert len(curve(figure.axes[0], "base")) == 3
        assert "Reverse-Base" not in words(figure)

    def test_empty_panels_say_what_is_missing(self):
        frame = grid(widths=(1.0,))
        frame.loc[frame["dataset"] == "cifar100", "n"] = 0
        frame.loc[frame["model"] == "inception", X] = None
        figure = draw(frame)
        assert words(figure).count("no runs") == 4
        assert words(figure).count("not measured") == 1
        check_layout(figure)
        nothing = draw(frame.assign(n=0))
        assert words(nothing).count("no runs") == 8
        assert not nothing.legends

    @pytest.mark.parametrize("log", [False, True])
    @pytest.mark.parametrize("widths", [(1.0,), WIDTHS])
    @pytest.mark.parametrize(
        ("datasets", "models", "inches"),
        [
            (["cifar10"], ["vgg19"], 3.25),
            (["digits"], ["vgg19", "mobilenet"], 3.25),
            (["cifar10", "cifar100"], list(FAMILIES), 6.75),
        ],
    )
    def test_every_layout_is_readable(self, datasets, models, inches, widths, log):
        figure = draw(grid(datasets, models, widths), log=log)
        assert figure.get_figwidth() == inches
        assert figure.get_figheight() <= 4
        check_layout(figure)
        for axis in figure.axes[-len(models) :]:
            low, high = axis.get_xlim()
            assert 1 <= sum(low <= tick <= high for tick in axis.get_xticks()) <= 6

    def test_costs_are_linear_unless_asked(self):
        assert draw(grid()).axes[0].get_xscale() == "linear"
        assert {axis.get_xscale() for axis in draw(grid(), log=True).axes} == {"log"}

    def test_a_missing_column_or_an_empty_frame_is_an_error_that_says_so(self):
        with pytest.raises(ValueError, match=r"unknown column 'params'.* params_millions"):
            figures.curves(grid(), "params", "Parameters")
        with pytest.raises(ValueError, match="empty frame"):
            draw(grid().head(0))
