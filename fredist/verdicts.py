"""From the cells of a claim to a verdict: by the paper's own numbers, and by our records."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean

import pandas as pd

from .paper import EXPERIMENTS, OWN_DATASETS
from .recipes import PROFILES
from .results import paired

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
NOT_MEASURED, NOT_PROTOCOL = "not yet measured", "not the paper's protocol"
CONTRAST_SEEDS, LEVEL = 5, 0.05  # what a contrast of our own needs to be decided
_BUDGET = EXPERIMENTS["budget"]
DECLARED = len(_BUDGET.models) * (len(_BUDGET.templates) - 1)  # contrasts: of all but the base
SEEDS = 3  # the paper's repetitions: a range over fewer decides nothing


def judge(
    words: str,
    where: str,
    cells: pd.DataFrame,
    column: str,
    *,
    above: float | None = None,
    below: float | None = None,
    reaches: float | None = None,
    some: bool = False,
) -> dict[str, str]:
    """Return one claim's row: its words, where they stand, and both verdicts with their numbers.

    The number shown is the one that decides: of a claim of some cells the best, of a claim of
    every cell the one nearest to failing; "?" says that it is doubtful (`paper.published`). None is
    shown of what was not taken by the paper's protocol. Our records need as many cells as the paper
    prints.

    Parameters
    ----------
    words, where : str
        The paper's own, and their place.
    cells : DataFrame
        Rows of `results.collect` or `results.gains`, printed numbers and ours.
    column : str
        What is compared: "gain" in points, or "percent" or "share" in percent; its range is in
        `low` and `high`, or `<column>_low`, `<column>_high`.
    above, below, reaches : float
        The bound: one of the three. A number equal to it passes `reaches` only ("up to 45%").
    some : bool
        Whether one cell that passes is enough; by default every cell must.

    Examples
    --------
    >>> cells = pd.DataFrame({"percent": [45.1, 20.1], "kind": "published"})
    >>> row = judge("up to 45% fewer", "abstract", cells, "percent", reaches=45, some=True)
    >>> row["by the paper"]
    'holds: 45.1%'
    """
    bounds = [above, below, reaches]
    if sum(bound is not None for bound in bounds) != 1:
        raise ValueError("expected one of above, below and reaches as the bound of a claim")

    def passes(value: float) -> bool:
        value = round(value, 9)  # a difference of printed numbers is exact to fewer digits
        if reaches is not None:
            return value >= reaches
        return value < below if above is None else value > above

    row = {"claim": words, "where": where}
    printed = cells["kind"] == "published"
    of = cells.loc[printed, column].count()
    for source, part in (("by the paper", cells[printed]), ("by our records", cells[~printed])):
        said = verdict(part, column, passes, some, of)
        known = part.dropna(subset=column).sort_values(column)
        if len(known) and said != NOT_PROTOCOL:
            decides = known.iloc[-1 if (below is None) == some else 0]
            said += f": {_words(decides[column], column)}" + "?" * bool(decides.get("doubtful"))
        elif source == "by the paper":
            said = "not printed as a number"
        row[source] = said
    return row


def _words(number: float, column: str) -> str:
    if math.isinf(number):
        return "never reached"  # by a curve, at any width
    unit = {"gain": " points", "share": "% of the base's"}.get(column, "%")
    return f"{number:.1f}{unit}" if abs(number) >= 10 else f"{number:.2f}{unit}"


def verdict(
    cells: pd.DataFrame,
    column: str,
    passes: Callable[[float], bool],
    some: bool = False,
    of: int = 0,
) -> str:
    """Return what cells of one source say of a claim that is of all of them, or of `of` if more.

    A cell passes if both ends of its range do, and fails if neither does. Accuracies decide only
    with the paper's protocol, on its data sets and with three seeds, memory and time by themselves
    only as the paper's code took them on CUDA; exact counts and printed numbers always do.

    Examples
    --------
    >>> cells = pd.DataFrame({"gain": [0.4, -0.2], "kind": "published"})
    >>> verdict(cells, "gain", lambda gain: gain > 0)
    'fails'
    """
    known = cells[cells[column].notna()].to_dict("records")
    if not known:
        return NOT_MEASURED
    if not all(map(_decides, known)):
        return NOT_PROTOCOL
    both = [[passes(end) for end in _range(row, column)] for row in known]
    passed, failed = [all(pair) for pair in both], [not any(pair) for pair in both]
    complete = len(known) >= max(of, len(cells))
    holds = any(passed) if some else complete and all(passed)
    fails = complete and all(failed) if some else any(failed)
    few = any(row["kind"] == "trained" and row["n"] < SEEDS for row in known)
    if (holds or fails) and not few:
        return HOLDS if holds else FAILS
    return INCONCLUSIVE if complete else NOT_MEASURED


def contrasts(frame: pd.DataFrame, quantity: str = "top1_last") -> pd.DataFrame:
    """Return what each template gains over the base at an equal budget, and what that decides.

    Paired by seed: `gain` is the mean difference in percentage points, `low` and `high` its 95%
    t-interval, `p` two-sided. `p_holm` is corrected by Holm over all templates and models that
    share a budget and are asked for with five seeds or more, and never over fewer than the eight
    that were declared: to look at a part of them decides no more. With fewer seeds, or before all
    that are asked for are there, `low` and `high` are the smallest and the largest difference, and
    there is no verdict. A gain has to be read beside `macs` and `params`, ratios to the base's, and
    `loss`, the difference in training loss.

    Examples
    --------
    >>> from fredist import paper, records, results
    >>> choices = paper.choose("budget", "small", datasets="cifar10")
    >>> found = contrasts(results.collect(choices, records.Store([])))
    >>> len(found), found.verdict.unique().tolist()
    (16, ['undecided: 0 of 5 seeds'])
    """
    rows = []
    ours = frame[frame["kind"] != "published"]
    for key, part in ours.groupby(["dataset", "like", "model"], sort=False):
        networks = dict(list(part.set_index("quantity").groupby("template", sort=False)))
        base = networks.pop("base", None)
        for template, own in networks.items() if base is not None else ():
            row = dict(zip(("dataset", "like", "model"), key, strict=True))
            row |= {"template": template, "of": (of := own.loc[quantity, "of"])}
            row |= _tested(own.loc[quantity, "seeds"], base.loc[quantity, "seeds"], of)
            for name, count in {"macs": "gmacs", "params": "params_millions"}.items():
                row[name] = own.loc[count, "value"] / base.loc[count, "value"]
            losses = paired(own.loc["loss_last", "seeds"], base.loc["loss_last", "seeds"])
            rows.append(row | {"loss": mean(a - b for a, b in losses)})
    columns = ["dataset", "like", "model", "template", "n", "of", "gain", "low", "high", "p",
               "macs", "params", "loss"]  # fmt: skip
    found = pd.DataFrame(rows, columns=columns)
    families = found[found["of"] >= CONTRAST_SEEDS].groupby(["dataset", "like"])["p"]
    found["p_holm"] = families.transform(_holm, least=DECLARED)
    found["verdict"] = [_contrast(row) for row in found.itertuples()]
    return found


def decide(
    accuracies: Mapping[str, Sequence[float] | Mapping[int, float]] | pd.DataFrame,
    base: str = "base",
) -> pd.DataFrame:
    """Return whether templates gain over the original, by accuracies of your own trainings.

    The test is that of `contrasts`. Each has one accuracy for each seed, by seed as in `seeds` of
    `results.collect`, or all the same seeds in the same order, or they are the columns of a frame,
    a row for each seed; at a cost that you hold equal (`redistribute` with `like="macs"`). nan is
    one that a training did not give, whose pairs are left out. Holm's correction is over the
    templates given; with fewer than five pairs nothing is decided. A gain says that the original's
    filters are in the wrong layers, for these data and this length of training.

    Raises
    ------
    ValueError
        If there is no base, nothing beside it, accuracies of other seeds, or two of one.
    TypeError
        If the accuracies are no mapping and no frame, or one's are words.

    Examples
    --------
    >>> own = {"base": [81.2, 80.9, 81.4, 81.0, 81.1], "uniform": [82.0, 81.9, 82.1, 82.2, 81.8]}
    >>> decide(own)[["n", "gain", "verdict"]].to_dict("index")
    {'uniform': {'n': 5, 'gain': 0.88, 'verdict': 'gains, at this scale'}}
    """
    if not isinstance(accuracies, Mapping | pd.DataFrame):
        raise TypeError(f"expected accuracies by template's name, got {accuracies!r}")
    values = {name: _by_seed(name, own) for name, own in accuracies.items()}
    if base not in values or len(values) < 2:
        names = ", ".join(map(str, values))
        raise ValueError(f"expected {base!r} and templates beside it, got {names}")
    seeds = {name: sorted(own, key=str) for name, own in values.items()}
    if any(own != seeds[base] for own in seeds.values()) or not seeds[base]:
        raise ValueError(f"expected an accuracy of each for each of the same seeds, got {seeds}")
    against = values.pop(base)
    rows = {name: _tested(own, against) for name, own in values.items()}
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("template")
    found["p_holm"] = _holm(found["p"])
    found["verdict"] = [_contrast(row) for row in found.assign(of=CONTRAST_SEEDS).itertuples()]
    return found


def _by_seed(name: str, own: Sequence[float] | Mapping[int, float]) -> dict[int, float]:
    if isinstance(own, str):
        raise TypeError(f"expected numbers as the accuracies of {name}, got {own!r}")
    pairs = list(own.items() if isinstance(own, Mapping | pd.Series) else enumerate(own))
    found = {seed: float(accuracy) for seed, accuracy in pairs}
    if len(found) < len(pairs):
        raise ValueError(f"expected one accuracy of {name} for each seed, got {pairs}")
    return found


def _tested(own: Mapping, base: Mapping, of: int = 0) -> dict[str, float]:
    """Return the mean difference by seed and its t-interval, or of too few pairs their range.

    Fewer than all `of` are too few: testing anew after every seed finds differences by chance.
    """
    from scipy import stats  # takes a second

    pairs = [round(a - b, 9) for a, b in paired(own, base)]  # equal differences are equal
    n = 0 if math.isnan(pairs[0]) else len(pairs)
    found = {"n": n, "gain": round(mean(pairs), 9), "low": min(pairs), "high": max(pairs)}
    found["p"] = 1.0 if (enough := n >= max(of, CONTRAST_SEEDS)) else math.nan
    if enough and min(pairs) < max(pairs):  # pairs that are all equal have no t
        test = stats.ttest_1samp(pairs, 0)
        found["low"], found["high"] = test.confidence_interval(1 - LEVEL)
        found["p"] = test.pvalue
    return found


def _holm(p: pd.Series, least: int = 0) -> pd.Series:
    """Return p values corrected by Holm; one that is missing counts as one that is larger."""
    steps = max(len(p), least) + 1 - p.rank(method="first", na_option="bottom")
    ordered = (p * steps).clip(upper=1).loc[p.sort_values().index].cummax()
    return ordered.reindex(p.index)


def _contrast(row) -> str:
    if math.isnan(row.p_holm):
        return f"undecided: {row.n} of {max(row.of, CONTRAST_SEEDS)} seeds"
    if row.low == row.high != 0:
        return "undecided: every seed differs by the same"  # as copies of one training do
    if row.p_holm >= LEVEL:
        return "undecided: no difference shown"
    return "gains, at this scale" if row.gain > 0 else "loses, at this scale"


def _range(row: dict, column: str) -> tuple[float, float]:
    names = (f"{column}_low", f"{column}_high") if f"{column}_low" in row else ("low", "high")
    ends = (row.get(name, math.nan) for name in names)
    return tuple(row[column] if pd.isna(end) else end for end in ends)


def _decides(row: dict) -> bool:
    """Whether a number was taken as the paper's were."""
    if row["kind"] == "trained":
        return PROFILES[row["profile"]].protocol and row["dataset"] in OWN_DATASETS
    if row["kind"] == "measured":
        return row["quantity"].startswith(("memory_code", "time_code"))
    return row["kind"] != "computed"
