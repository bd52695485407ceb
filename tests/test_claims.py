"""The paper's claims: what its own tables say of them, and when our records may say anything."""

import math

import pandas as pd
import pytest

from fredist import claims
from fredist.evidence import COLUMNS, Frames, Numbers, Span, largest
from fredist.experiments import WIDTHS
from fredist.models import FAMILIES
from fredist.statements import CLAIMS
from fredist.templates import TEMPLATES

NETWORKS = ("as published", "equations")


@pytest.fixture(scope="module")
def paper():
    return claims.published_frames()


@pytest.fixture(scope="module")
def empty():
    return claims.our_frames()


@pytest.fixture(scope="module")
def tested(paper, empty):
    return claims.table(paper, empty).set_index("id")


def judged(name, frames):
    [claim] = [claim for claim in CLAIMS if claim.id == name]
    views = (Numbers(frames, NETWORKS, certain) for certain in (False, True))
    return claims.judge(claim, *views)


def with_accuracy(paper, dataset, model, template, value):
    accuracy = paper.accuracy.copy()
    where = accuracy[["dataset", "model", "template"]].eq([dataset, model, template]).all(axis=1)
    assert where.sum() == 1
    accuracy.loc[where, "mean"] = value
    return Frames(accuracy, paper.cost, paper.tiny)


def records(value, *, n=3, spread=0.1, profile="paper128", **columns):
    """Return a full Table 1 of records: accuracies by (dataset, model, template)."""
    rows = []
    for dataset in ("cifar10", "cifar100"):
        for model in FAMILIES:
            for template in TEMPLATES:
                mean = value(dataset, model, template)
                row = dict.fromkeys(COLUMNS["accuracy"]) | {
                    "dataset": dataset, "model": model, "template": template,
                    "network": "equations", "width": 1.0, "params": 1_000_000, "n": n,
                    "mean": mean, "min": mean - spread, "max": mean + spread,
                    "profile": profile, "devices": "a device",
                }  # fmt: skip
                rows.append(row | columns)
    return pd.DataFrame(rows)


def ours(frame, empty):
    return Frames(frame, empty.cost, empty.tiny)


@pytest.mark.parametrize(
    ("name", "verdict", "points", "percent", "cell"),
    [
        ("accuracy up to", "holds", 3.63, 5.58, "MobileNet Uniform, CIFAR-100"),
        ("parameters up to", "holds", None, 45.11, "ResNet-50 Uniform"),
        ("memory up to", "holds", None, 60.0, "MobileNet Negative-Quadratic"),
        ("variation, CIFAR", "fails", 3.63, 5.58, "MobileNet Uniform, CIFAR-100"),
        ("variation, Tiny-ImageNet", "fails", 19.45, 33.24, "MobileNet Quadratic"),
        ("improve on CIFAR-10", "fails", -0.29, -0.31, "ResNet-50 Quadratic, CIFAR-10"),
        ("fewer parameters", "fails", None, -16.13, "Inception Quadratic"),
        ("Negative-Quadratic memory", "fails", None, -7.69, "VGG-19 Negative-Quadratic"),
        ("Inception resilient", "holds", 1.38, 1.77, "Inception Negative-Quadratic, CIFAR-100"),
        ("surpass the base", "fails", -0.33, -0.43, "ResNet-50, CIFAR-100"),
        ("Inception the highest", "holds", 0.14, 0.15, "Inception Base, CIFAR-10"),
        ("Inception faster", "holds", None, 14.74, "Inception Negative-Quadratic"),
        ("parameters at equal accuracy", "holds", None, 45.11, "ResNet-50 Uniform, CIFAR-10"),
    ],
)
def test_the_published_tables_own_verdicts(tested, name, verdict, points, percent, cell):
    row = tested.loc[name]
    assert row["published_verdict"] == verdict
    assert row["published_points"] == pytest.approx(points or math.nan, abs=0.005, nan_ok=True)
    assert row["published_percent"] == pytest.approx(percent, abs=0.005)
    assert f"Published: {cell}" in row["note"]


def test_a_verdict_that_hangs_on_the_reading_says_so(tested):
    assert "Published, in points: fails." in tested.loc["accuracy up to", "note"]
    assert "Published, in points: holds." in tested.loc["variation, CIFAR", "note"]
    assert "Published, in percent: fails." in tested.loc["Inception resilient", "note"]
    assert "Published, in" not in tested.loc["improve on CIFAR-10", "note"]


def test_counterexamples_are_listed_and_doubtful_digits_marked(tested):
    note = tested.loc["Negative-Quadratic memory", "note"]
    assert "VGG-19 Negative-Quadratic (-7.69%); Inception Negative-Quadratic (-6.67%)." in note
    assert "(60.00%?)" in tested.loc["memory up to", "note"]  # the base's 2.5 is printed as 25
    assert "?" not in tested.loc["parameters up to", "note"]


def test_a_changed_number_changes_the_verdict(paper):
    better = with_accuracy(paper, "cifar10", "resnet50", "quadratic", 94.71)
    assert judged("improve on CIFAR-10", better).verdict == "holds"
    nearer = with_accuracy(paper, "cifar100", "mobilenet", "uniform", 65.08)
    assert judged("variation, CIFAR", nearer).verdict == "holds"
    assert judged("accuracy up to", nearer).verdict == "fails"
    further = with_accuracy(paper, "cifar100", "inception", "negative_quadratic", 76.52)
    assert judged("Inception resilient", further).verdict == "fails"


def test_what_reaches_a_number_is_rounded_to_its_digits_and_bounds_are_not(paper):
    def gain(base):  # 65.08 is MobileNet's base on CIFAR-100
        frames = with_accuracy(paper, "cifar100", "mobilenet", "uniform", 65.08 * (1 + base / 100))
        return judged("accuracy up to", frames).verdict

    assert (gain(5.46), gain(5.44)) == ("holds", "fails")
    [claim] = [claim for claim in CLAIMS if claim.id == "variation, CIFAR"]
    assert claim.passes(4.999)
    assert not claim.passes(5.0)


def test_parameters_are_judged_exactly_by_both_conventions_without_any_record(tested):
    row = tested.loc["parameters up to"]
    assert (row["ours_verdict"], row["ours_source"]) == ("holds", "exact count")
    assert row["ours_percent"] == pytest.approx(100 * (1 - 12_898_610 / 23_520_842))
    assert "By the equations: fails" in row["note"]
    tiny = tested.loc["Tiny-ImageNet, VGG"]
    assert tiny["ours_verdict"] == "holds"
    assert "By the equations: fails, VGG-19 Quadratic, Tiny-ImageNet (-9.23%)" in tiny["note"]


def test_without_records_nothing_else_is_measured_and_curves_are_not_published(tested):
    others = tested[~tested["kind"].isin(["params"])]
    assert set(others["ours_verdict"]) == {"not yet measured"}
    assert others["ours_percent"].isna().all()
    for name in ("a quarter of the parameters", "half the memory", "uniform is the most efficient"):
        assert tested.loc[name, "published_verdict"] == "not published as numbers"
        assert math.isnan(tested.loc[name, "published_percent"])


def gain(points):
    return lambda dataset, model, template: 90.0 + (template != "base") * points


def test_disjoint_ranges_of_three_seeds_decide(empty):
    assert judged("improve on CIFAR-10", ours(records(gain(0.5)), empty)).verdict == "holds"
    assert judged("improve on CIFAR-10", ours(records(gain(-0.5)), empty)).verdict == "fails"


def test_overlapping_ranges_decide_nothing(empty):
    found = judged("improve on CIFAR-10", ours(records(gain(0.5), spread=0.3), empty))
    assert (found.verdict, found.points) == ("inconclusive", 0.5)
    assert "a device; n = 3; spread -0.11% to 1.23%" in found.source
    points = judged("Inception resilient", ours(records(gain(1.3), spread=0.3), empty))
    assert (points.verdict, points.percent) == ("inconclusive", pytest.approx(100 * 1.3 / 90))
    assert "spread 0.70 points to 1.90 points" in points.source
    close = ours(records(gain(1.3), spread=0.05), empty)
    assert judged("Inception resilient", close).verdict == "holds"


def test_fewer_than_three_seeds_decide_nothing_but_are_shown(empty):
    found = judged("improve on CIFAR-10", ours(records(gain(9), n=2), empty))
    assert (found.verdict, found.points) == ("inconclusive", 9)
    assert "n = 2" in found.source


@pytest.mark.parametrize("columns", [{"profile": "quick"}, {"built_width": 0.08}])
def test_another_protocol_decides_nothing_but_is_shown(empty, columns):
    found = judged("improve on CIFAR-10", ours(records(gain(9), **columns), empty))
    assert (found.verdict, found.points) == ("not the paper's protocol", 9)
    assert "a device" in found.source


def test_a_part_of_the_cells_decides_only_what_it_can(empty):
    half = records(lambda *cell: 90 + 6 * (cell[2] == "uniform")).query("dataset == 'cifar10'")
    assert judged("accuracy up to", ours(half, empty)).verdict == "holds"
    assert judged("variation, CIFAR", ours(half, empty)).verdict == "fails"
    same = ours(records(gain(0)).query("dataset == 'cifar10'"), empty)
    assert judged("variation, CIFAR", same).verdict == "not yet measured"
    assert "16 of 32 cells" in judged("variation, CIFAR", same).source


def curves(reach, base=90.0):
    """Return curves of 100 x width x what a template reaches, up to 90; the base's own at 1.0."""
    parts = []
    for width in WIDTHS:

        def value(dataset, model, template, width=width):
            whole = width == 1 and template == "base"
            return base if whole else min(100 * width * reach(template), 90.0)

        params = round(1_000_000 * width)
        parts.append(records(value, spread=0).assign(width=width, params=params))
    return pd.concat(parts)


def tenfold(which):
    return lambda template: 10 if template == which else 1


def test_curves_are_read_where_they_cross_the_bases_accuracy(empty):
    for base, uniform, reverse in ((50.0, 50_000, 500_000), (75.0, 81_250, 750_000)):
        numbers = Numbers(ours(curves(tenfold("uniform"), base), empty), ("equations",))
        found = numbers.needed("params", "cifar10", "vgg19", "uniform")
        assert found.value == found.low == found.high == pytest.approx(uniform)
        found = numbers.needed("params", "cifar100", "mobilenet", "reverse")
        assert found.value == found.low == found.high == pytest.approx(reverse)
    assert numbers.at_equal("params", "cifar10", "vgg19", "reverse").value == 90


def test_an_accuracys_range_is_the_crossings_range(empty):
    frame = curves(tenfold("uniform"), 75.0)
    frame["min"], frame["max"] = frame["mean"] - 1, frame["mean"] + 1
    numbers = Numbers(ours(frame, empty), ("equations",))
    found = numbers.needed("params", "cifar10", "vgg19", "uniform")
    assert (found.low, found.high) == pytest.approx((78_750, 83_750))


def test_curve_claims_hold_and_fail(empty):
    uniform = ours(curves(tenfold("uniform")), empty)
    assert judged("a quarter of the parameters", uniform).verdict == "holds"
    assert judged("a quarter of the parameters", uniform).percent == pytest.approx(90)
    assert judged("uniform is the most efficient", uniform).verdict == "holds"
    reverse = ours(curves(tenfold("reverse")), empty)
    assert judged("a quarter of the parameters", reverse).verdict == "holds"
    assert judged("uniform is the most efficient", reverse).verdict == "fails"
    never = judged("a quarter of the parameters", ours(curves(lambda _: 0.5), empty))
    assert never.verdict == "fails"
    assert "VGG-19, CIFAR-10 (never)" in never.cells


def test_curves_of_few_seeds_another_profile_or_fewer_widths_stay_open(empty):
    frame = curves(tenfold("uniform"))
    for changed, verdict in (
        ({"n": 1}, "inconclusive"),
        ({"profile": "narrow"}, "not the paper's protocol"),
    ):
        found = judged("a quarter of the parameters", ours(frame.assign(**changed), empty))
        assert (found.verdict, found.percent) == (verdict, pytest.approx(90))
    slow = ours(curves(lambda _: 1).query("width >= 0.5"), empty)  # less may be enough
    assert judged("a quarter of the parameters", slow).verdict == "inconclusive"
    one = judged("a quarter of the parameters", ours(frame.query("width == 1"), empty))
    assert one.verdict == "not yet measured"
    assert math.isnan(one.percent)
    assert judged("half the memory", ours(frame, empty)).verdict == "not yet measured"


def test_a_narrow_networks_memory_decides_nothing(empty):
    frame = curves(tenfold("uniform")).assign(profile="narrow", memory_gb=1.0)
    found = judged("half the memory", ours(frame, empty))
    assert (found.verdict, found.percent) == ("not the paper's protocol", 0)


def test_costs_come_from_the_first_source_that_has_them_and_say_so(paper, empty):
    computed = paper.cost[COLUMNS["cost"]].assign(source="computed", time_ms=math.nan)
    timed = paper.cost[COLUMNS["cost"]].assign(source="a device", memory_gb=1.0)
    frame = claims.table(paper, claims.our_frames(cost=pd.concat([computed, timed])))
    rows = frame.set_index("id")
    assert rows.loc["memory up to", ["ours_verdict", "ours_source"]].tolist() == [
        "holds",
        "computed",
    ]
    assert rows.loc["Inception faster", "ours_source"] == "a device"
    assert rows.loc["parameters up to", "ours_source"] == "exact count"


def test_a_third_best_has_the_range_that_it_can_lie_in():
    spans = [Span(value, value - 1, value + width, 3) for value, width in ((5, 1), (4, 3), (1, 1))]
    third, first = largest(spans, 3), largest(spans)
    assert (third.value, third.low, third.high) == (1, 0, 2)
    assert (first.value, first.low, first.high) == (5, 4, 7)


def test_frames_that_do_not_fit_are_refused(paper):
    with pytest.raises(ValueError, match=r"expected the columns .* add profile"):
        Frames(paper.accuracy.drop(columns="profile"), paper.cost, paper.tiny)
    with pytest.raises(ValueError, match="got two of cifar10, inception, base"):
        Frames(pd.concat([paper.accuracy, paper.accuracy]), paper.cost, paper.tiny)


def test_the_text_fits_a_notebook_and_names_every_claim_once(tested):
    text = claims.to_text(tested.reset_index())
    assert max(map(len, text.splitlines())) <= 100
    assert tested.index.is_unique
    assert len(text.split("\n\n")) == len(CLAIMS) == len(tested)
    assert "published  holds                     3.63 points, 5.58%" in text
