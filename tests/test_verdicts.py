"""Verdicts: what may judge a claim, and what may not."""

import math
import re
from statistics import mean, stdev

import pandas as pd
import pytest
from scipy import stats

import fredist
from fredist import figures, paths
from fredist.networks import FAMILIES
from fredist.paper import choose
from fredist.records import Store
from fredist.results import collect, gains
from fredist.verdicts import contrasts, judge, verdict


def cells(*values, kind="published", **columns):
    return pd.DataFrame({"gain": values, "kind": kind} | columns)


def above(bound):
    return lambda value: value > bound


@pytest.mark.parametrize(
    ("values", "some", "expected"),
    [
        ((1, 2), False, "holds"),
        ((1, -1), False, "fails"),
        ((1, -1), True, "holds"),
        ((-1, -2), True, "fails"),
        ((1, math.nan), False, "not yet measured"),
        ((-1, math.nan), False, "fails"),  # one that fails decides, whatever the others are
        ((1, math.nan), True, "holds"),
        ((math.nan,), False, "not yet measured"),
    ],
)
def test_a_claim_of_every_cell_and_of_some(values, some, expected):
    assert verdict(cells(*values), "gain", above(0), some) == expected


def trained(gain, low, high, n=3, profile="paper", dataset="cifar10"):
    columns = {"low": low, "high": high, "n": n, "profile": profile, "dataset": dataset}
    return cells(gain, kind="trained", **columns)


def test_ranges_decide_not_means():
    assert verdict(trained(1, 0.5, 1.5), "gain", above(0)) == "holds"
    assert verdict(trained(1, -0.5, 1.5), "gain", above(0)) == "inconclusive"
    assert verdict(trained(-1, -1.5, -0.5), "gain", above(0)) == "fails"


def test_fewer_than_three_seeds_decide_nothing():
    assert verdict(trained(1, 1, 1, n=2), "gain", above(0)) == "inconclusive"


@pytest.mark.parametrize("other", [{"profile": "smoke"}, {"dataset": "digits"}])
def test_another_protocol_or_data_set_may_not_judge(other):
    assert verdict(trained(1, 1, 1, **other), "gain", above(0)) == "not the paper's protocol"


def test_our_records_need_every_cell_that_the_paper_prints():
    both = pd.concat([cells(1.0, 2.0), trained(1, 1, 1)])
    assert judge("", "", both, "gain", above=0)["by our records"] == "not yet measured: 1.00 points"
    assert judge("", "", both, "gain", above=0, some=True)["by our records"] == "holds: 1.00 points"
    assert judge("", "", both, "gain", above=1)["by our records"] == "fails: 1.00 points"
    both = pd.concat([both, trained(3, 3, 3, dataset="cifar100")])
    assert judge("", "", both, "gain", above=0)["by our records"] == "holds: 1.00 points"


def test_what_is_never_reached_is_said_in_words():
    said = judge("", "", trained(math.inf, math.inf, math.inf), "gain", below=5)
    assert said["by our records"] == "fails: never reached"


@pytest.mark.parametrize(
    ("kind", "quantity", "decides"),
    [
        ("measured", "memory_code_gb", True),
        ("measured", "time_synchronised_16_ms", False),
        ("computed", "memory_training_tensors_gb", False),
        ("counted", "params_millions", True),
    ],
)
def test_memory_and_time_are_guarded_as_accuracy_is(kind, quantity, decides):
    found = verdict(cells(1.0, kind=kind, quantity=quantity), "gain", above(0))
    assert (found == "holds") == decides


def test_the_number_shown_is_the_one_that_decides():
    both = cells(3.0, 44.0, 46.0)
    assert (
        judge("", "", both, "gain", reaches=45, some=True)["by the paper"] == "holds: 46.0 points"
    )
    assert judge("", "", both, "gain", above=2)["by the paper"] == "holds: 3.00 points"
    assert judge("", "", both, "gain", below=45)["by the paper"] == "fails: 46.0 points"
    assert judge("", "", both, "gain", above=2)["by our records"] == "not yet measured"


def test_a_number_that_can_be_read_in_two_ways_is_marked():
    both = cells(3.0, 44.0, doubtful=[True, False])
    assert judge("", "", both, "gain", above=2)["by the paper"] == "holds: 3.00 points?"
    assert judge("", "", both, "gain", above=2, some=True)["by the paper"] == "holds: 44.0 points"


def test_a_bound_is_one_of_three():
    assert judge("", "", cells(5.0), "gain", below=5)["by the paper"].startswith("fails")
    assert judge("", "", cells(5.0), "gain", above=5)["by the paper"].startswith("fails")
    assert judge("", "", cells(5.0), "gain", reaches=5)["by the paper"].startswith("holds")
    with pytest.raises(ValueError, match="one of above, below and reaches"):
        judge("", "", cells(5.0), "gain", above=5, below=6)


def budget(**gains):
    """Return the frame of one model at equal MACs, by each template's gains over its base."""
    rows = []
    for template, differences in {"base": [0.0] * 5, **gains}.items():
        numbers = {"top1_last": 70.0, "loss_last": 1.0, "gmacs": 2.0, "params_millions": 3.0}
        for quantity, center in numbers.items():
            seeds = {s: center + s + d for s, d in enumerate(differences)}
            row = {"dataset": "cifar10", "like": "macs", "model": "vgg19", "template": template}
            row |= {"quantity": quantity, "seeds": seeds, "of": 5, "kind": "trained"}
            rows.append(row | {"value": center})
    return pd.DataFrame(rows)


def test_contrasts_are_paired_t_tests_corrected_by_holm():
    gains = {
        "reverse": [1, 2, 3, 2, 2],
        "uniform": [-3, -2, -3, -2, -3],
        "quadratic": [1, -1, 0, 2, -2],
    }
    found = contrasts(budget(**gains)).set_index("template")
    # As R gives them: p.adjust(sapply(list(...), function(d) t.test(d)$p.value), "holm", n = 8)
    t = {name: mean(d) / (stdev(d) / math.sqrt(5)) for name, d in gains.items()}
    p = {name: 2 * stats.t.sf(abs(value), 4) for name, value in t.items()}
    assert found.p.to_dict() == pytest.approx(p)
    order = sorted(p, key=p.get)
    steps = [p[name] * (8 - i) for i, name in enumerate(order)]
    expected = [min(1, max(steps[: i + 1])) for i in range(3)]
    assert [found.p_holm[name] for name in order] == pytest.approx(expected)
    half = stats.t.ppf(0.975, 4) * stdev(gains["reverse"]) / math.sqrt(5)
    assert found.low["reverse"] == pytest.approx(2 - half)
    assert found.high["reverse"] == pytest.approx(2 + half)
    assert found.verdict.to_dict() == {
        "reverse": "gains, at this scale",
        "uniform": "loses, at this scale",
        "quadratic": "undecided: no difference shown",
    }


def test_your_own_accuracies_are_decided_by_the_same_test():
    gains = {"reverse": [1, 2, 3, 2, 2], "uniform": [-3, -2, -3, -2, -3], "cone": [0.0] * 5}
    base = [70.0, 71.0, 69.0, 73.0, 70.5]
    own = {name: [b + g for b, g in zip(base, given, strict=True)] for name, given in gains.items()}
    found = fredist.decide({"base": base, **own})
    beside = contrasts(budget(**gains)).set_index("template")
    same = ["n", "gain", "low", "high", "p", "verdict"]
    assert found[same].to_dict() == beside[same].to_dict()
    order = found.p.sort_values().index  # of three tests, not of the eight that were declared
    assert found.p_holm[order[0]] == pytest.approx(3 * found.p[order[0]])
    assert found.p_holm["cone"] == 1
    few = fredist.decide({"was": [70, 71], "uniform": (72, 73)}, base="was")
    assert few.loc["uniform", ["low", "high", "verdict"]].tolist() == [
        2,
        2,
        "undecided: 2 of 5 seeds",
    ]


def test_a_training_without_an_accuracy_leaves_its_pairs_out():
    base, lost = [81.2, 80.9, 81.4, 81.0, 81.1, 80.7], [math.nan, 81.9, 82.3, 82.2, 81.8, 81.4]
    found = fredist.decide({"base": base, "a": lost, "b": lost[:2] + [math.nan] * 4}).T
    beside = fredist.decide({"base": base[1:], "a": lost[1:]}).T
    assert found.a[["n", "gain", "p", "verdict"]].equals(beside.a[["n", "gain", "p", "verdict"]])
    assert found.b[["n", "verdict"]].tolist() == [1, "undecided: 1 of 5 seeds"]


def test_copies_of_one_training_decide_nothing():
    found = fredist.decide({"base": [80.1] * 5, "uniform": [80.8] * 5})
    assert found.verdict["uniform"] == "undecided: every seed differs by the same"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"uniform": [1.0]}, "expected 'base' and templates beside it, got uniform"),
        ({"base": [1.0]}, "expected 'base' and templates beside it, got base"),
        ({"base": [1.0, 2.0], "uniform": [1.0]}, r"the same seeds.*'uniform': \[0\]"),
        ({"base": [], "uniform": []}, "the same seeds"),
        ({"base": {0: 81.0, 1: 82.0}, "uniform": {1: 81.0, 2: 82.0}}, "the same seeds"),
        ({"base": "81", "uniform": "82"}, "numbers as the accuracies of base, got '81'"),
        ([1.0], "accuracies by template's name"),
        ({0: [1.0], 1: [2.0]}, "expected 'base' and templates beside it, got 0, 1"),
        (pd.DataFrame({"base": [1.0, 2], "a": [2.0, 3]}, [7, 7]), "one accuracy of base for each"),
    ],
)
def test_accuracies_that_make_no_pairs_are_an_error(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        fredist.decide(given)


def test_accuracies_by_seed_are_paired_by_seed():
    base, own = {s: 80.0 + s for s in range(5)}, {s: 81.0 + s + s % 2 / 10 for s in range(5)}
    listed = fredist.decide({"base": list(base.values()), "uniform": list(own.values())})
    turned = dict(sorted(own.items(), reverse=True))
    for one in (own, turned, pd.Series(turned)):
        assert fredist.decide({"base": base, "uniform": one}).equals(listed)
    assert fredist.decide(pd.DataFrame({"uniform": turned, "base": base})).equals(listed)


def test_a_contrast_of_fewer_than_five_seeds_decides_nothing():
    both = contrasts(budget(reverse=[1, 2, 3, 2, 2], uniform=[-3, -2])).set_index("template")
    assert both.verdict["uniform"] == "undecided: 2 of 5 seeds"
    assert (both.low["uniform"], both.high["uniform"]) == (-3, -2)
    assert both.p_holm["reverse"] == pytest.approx(8 * both.p["reverse"])


def test_nothing_is_decided_before_all_seeds_that_were_asked_for_are_there():
    frame = budget(reverse=[1, 2, 3, 2, 2], uniform=[-3, -2]).assign(of=7)
    found = contrasts(frame).set_index("template")
    assert found.verdict["reverse"] == "undecided: 5 of 7 seeds"
    assert (found.low["reverse"], found.high["reverse"]) == (1, 3)


def test_a_part_of_the_declared_contrasts_decides_no_more_than_all():
    """Eight were declared; a family of more is corrected for all of them."""
    part = contrasts(budget(reverse=[1, 2, 3, 2, 2])).set_index("template")
    assert part.p_holm["reverse"] == pytest.approx(8 * part.p["reverse"])
    frame = budget(reverse=[1, 2, 3, 2, 2], uniform=[0.5] * 2, quadratic=[0.5] * 2)
    models = [frame.assign(model=model) for model in ("vgg19", "resnet50", "inception")]
    nine = contrasts(pd.concat(models)).set_index(["model", "template"])
    assert nine.p_holm["vgg19", "reverse"] == pytest.approx(9 * part.p["reverse"])


def test_pairs_that_are_all_equal_show_no_difference():
    found = contrasts(budget(reverse=[0.0] * 5, uniform=[1, 2, 3, 2, 2])).set_index("template")
    assert found.verdict["reverse"] == "undecided: no difference shown"
    assert tuple(found.loc["reverse", ["low", "high", "p_holm"]]) == (0, 0, 1)


def test_without_a_base_or_beside_it_alone_there_are_no_contrasts():
    frame = budget(reverse=[1, 2, 3, 2, 2])
    for part in (frame[frame.template == "base"], frame[frame.template != "base"]):
        found = contrasts(part)
        assert (len(found), list(found)) == (0, list(contrasts(frame)))


def readme(start=None):
    """Return the README's line that begins so; without one all of it, as one line."""
    lines = (paths.ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return " ".join(lines) if start is None else next(x for x in lines if x.startswith(start))


def test_the_readme_says_of_equal_budgets_what_the_shipped_records_do():
    said = readme("| Equal MACs")
    choices = choose("budget", "small", datasets="cifar10")
    found = contrasts(collect(choices, Store(paths.RESULTS))).query("n >= 5")
    assert len(found) >= 4
    words = {"gains": "gains {:.1f} points (95% interval {:.1f} to {:.1f})", "loses": "lose"}
    labels = [FAMILIES[model].label for model in choices.models]
    for row in found.itertuples():
        name, own = row.template.replace("_", "-"), FAMILIES[row.model].label
        part = re.search(rf"{own}((?!{'|'.join(labels)}).)*", said)[0]  # up to the next model
        clause = re.search(rf"(?<!-){name}[^,]*", part)[0]
        verdict = row.verdict.partition(",")[0].partition(":")[0]
        assert words.get(verdict, verdict).format(row.gain, row.low, row.high) in clause
        assert f"{abs(row.gain):.1f}" in clause
    first = readme().partition("**What is known so far**")[2].partition("## ")[0]
    rows = found.set_index(["model", "template"])
    best = {model: rows.loc[model, "negative_quadratic"] for model in choices.models}
    assert f"negative-quadratic gains {best['vgg19'].gain:.1f} points on VGG-19" in first
    assert best["mobilenet"].verdict.startswith("undecided")
    losers = rows[rows.index.isin(["reverse", "quadratic"], level="template")]
    assert set(losers.verdict) == {"loses, at this scale"}
    assert f"lose {-losers.gain.max():.0f} to {-losers.gain.min():.0f} points" in first


def test_pages_say_of_equal_budgets_and_filters_what_the_shipped_records_do():
    """The reading in `budget.ipynb`, and the README's first words of equal filters."""
    found = contrasts(collect(choose("budget", "small", datasets="cifar10"), Store(paths.RESULTS)))
    by_macs = found.query("like == 'macs'").set_index(["model", "template"])
    above = by_macs[by_macs.gain > 0]
    assert set(above.index.get_level_values("template")) == {"negative_quadratic"}
    page = (paths.ROOT / "notebooks" / "budget.ipynb").read_text(encoding="utf-8")
    most = by_macs.groupby("model").params.idxmax()
    for name, model in {"VGG-19": "vgg19", "MobileNet": "mobilenet"}.items():
        assert most[model] == (model, "negative_quadratic")
        assert f"{by_macs.params[most[model]]:.2f} in" in page, name
    starved = by_macs.index.isin(["reverse", "quadratic"], level="template")
    assert by_macs[starved].params.max() < 0.105
    assert by_macs[starved].loss.min() > 0
    assert by_macs[starved].gain.max() < by_macs[~starved].gain.min()
    equal = choose("table1", "small", datasets="cifar10", models="vgg19,mobilenet")
    filters = gains(collect(equal, Store(paths.RESULTS)), "top1_last")
    assert filters.gain.min() > 0
    macs = {(c.model, c.template): equal.run(c, seed=0).network.macs(32) for c in equal.cells()}
    ratios = [
        n / macs[model, "base"] for (model, template), n in macs.items() if template != "base"
    ]
    words = f"ends above the base, and does {min(ratios):.1f} to {max(ratios):.0f} times its work"
    assert words in readme()


def test_the_readme_says_of_equal_filters_what_the_shipped_records_do():
    said = readme("| Equal filters")
    found, pairs = [], []
    for profile in ("small", "small30"):
        choices = choose("table1", profile, models="vgg19,mobilenet", templates="base,uniform")
        frame = collect(choices, Store(paths.RESULTS)).query("quantity == 'top1_last'")
        own = gains(frame, "top1_last").set_index("model")
        found.append(own.assign(epochs=choices.setting().recipe.epochs))
        seeds = frame.set_index(["model", "template"])["seeds"]
        both = [(seeds[model, "uniform"], seeds[model, "base"]) for model in choices.models]
        pairs.append(
            [own[seed] - base[seed] for own, base in both for seed in choices.setting().seeds]
        )
    short, long = found
    smaller = all(0 < late < early for early, late in zip(*pairs, strict=True))
    assert smaller == ("smaller at every seed, and still there" in said)
    for model in short.index:
        a, b = short.loc[model], long.loc[model]
        words = f"{FAMILIES[model].label} {a.gain:.1f} points after {a.epochs} epochs ({a.n} of "
        words += f"{a.of} seeds) and {b.gain:.1f} after {b.epochs} ({b.n} of {b.of})"
        assert words in said


def test_the_readme_says_of_table_2_what_the_shipped_records_do():
    said = readme("| Table 2:")
    choices = choose("table2", "small", datasets="tiny-imagenet-subset")
    frame = collect(choices, Store(paths.RESULTS)).query("model == 'vgg19' and template == 'base'")
    best, last = (frame[frame.quantity == q].iloc[0] for q in ("train_top1_best", "top1_last"))
    assert f"has {best.value:.2f}% of the training images right at its best epoch" in said
    assert f"{last.value:.2f}% of the validation images after the last" in said
    assert f"{last.n} of {last.of} seeds" in said


def test_the_readme_says_of_fewer_parameters_what_the_shipped_records_do():
    said = readme("| Fewer parameters")
    choices = choose("figure2", "small", models="vgg19", widths="1,0.5", seeds=[0])
    found = gains(collect(choices, Store(paths.RESULTS)), "top1_last").query("width == 0.5")
    half = found.set_index("template")
    networks = {(cell.template, cell.width): choices.network(cell) for cell in choices.cells()}
    base, others = networks["base", 1.0], half.index.drop("base")
    points = [f"{t.replace('_', '-')} {half.gain[t]:.2f}" for t in others]
    points[0] += " points"
    points.append(f"the base itself {half.gain['base']:.2f}")
    assert f"gain over the base: {', '.join(points)}. " in said
    for count, words in (
        (lambda n: n.params, "of its parameters"),
        (lambda n: n.macs(), "times its MACs"),
    ):
        *parts, last = [f"{count(networks[t, 0.5]) / count(base):.2f}" for t in others]
        assert f"{', '.join(parts)} and {last} {words}" in said
    mobilenet = choose("figure2", "small", datasets="cifar10", models="mobilenet", seeds=[0])
    found = figures.beside_original(collect(mobilenet, Store(paths.RESULTS)), "parameters")
    fewer = found[found.parameters < 1 / 3].droplevel(["dataset", "model"])
    assert (fewer.gain.max() < 0) == ("MobileNet: none reaches it" in said)
    nearest = fewer.gain.idxmax()
    networks = {(c.template, c.width): mobilenet.network(c).macs() for c in mobilenet.cells()}
    words = f"the nearest is {nearest[0]}, {fewer.gain[nearest]:.2f} points with "
    words += f"{fewer.parameters[nearest]:.2f} of the parameters and "
    assert f"{words}{networks[nearest] / networks['base', 1.0]:.2f} times the MACs" in said


def test_the_readme_says_of_memory_and_time_what_the_shipped_records_do():
    said, parts = readme("| No more memory or time"), []
    for figure, what in (("figure3", "memory"), ("figure4", "time")):
        choices = choose(figure, "small", datasets="cifar10", seeds=[0])
        found = figures.beside_original(collect(choices, Store(paths.RESULTS)), what)
        small = found[found[what] <= 1]
        assert (small["gain"].max() < 0) == ("Not here" in said)
        _, model, template, width = nearest = small["gain"].idxmax()
        words = f"{FAMILIES[model].label}'s {template.replace('_', '-')} at width {width:g}"
        assert f"The nearest is {words}, {small.gain[nearest]:.1f} points in " in said
        parts.append(f"{small.loc[nearest, what]:.2f} of the {what}")
    assert " and ".join(parts) in said
