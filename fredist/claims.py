"""The paper's claims, put to the test: by its own published tables, and by our records."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from . import paths
from .data import DATASETS
from .evidence import COLUMNS, DAMAGED, TINY, Frames, Numbers
from .experiments import TABLE2_MODELS, TABLE2_OPTIONS, printed_convention
from .experiments import networks as table1_networks
from .measurements import make_network
from .report import DASH, Table, escape, published
from .statements import CLAIMS, Cell, Claim
from .tables import NETWORKS

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
NOT_MEASURED, NOT_PROTOCOL = "not yet measured", "not the paper's protocol"
NOT_PUBLISHED = "not published as numbers"
COUNTED = "exact count"
KINDS = {
    "accuracy": "accuracy",
    "params": "parameters",
    "memory": "memory",
    "time": "inference time",
}


@dataclass(frozen=True)
class Evidence:
    """What frames say about a claim: the deciding cell's numbers, and the verdict."""

    verdict: str
    points: float = math.nan
    percent: float = math.nan
    cells: str = ""
    source: str = ""


def verdict(claim: Claim, cells: Sequence[Cell], sure: Sequence[Cell], foreign: set[str]) -> str:
    """Return the verdict of a claim's cells.

    Parameters
    ----------
    claim : Claim
    cells : sequence of Cell
        As seen.
    sure : sequence of Cell
        The same with the ranges to judge by: those of fewer than three seeds, or not of the
        paper's protocol, are wide open.
    foreign : set of str
        The sources that are not the paper's protocol.
    """
    ends = [getattr(cell, claim.unit) for cell in sure]
    both = [(claim.passes(span.low), claim.passes(span.high)) for span in ends]
    passed, failed = [all(pair) for pair in both], [not any(pair) for pair in both]
    quantifier, opposite = (any, all) if claim.some else (all, any)
    if both and quantifier(passed):
        return HOLDS
    if both and opposite(failed):
        return FAILS
    measured = [cell.percent.measured for cell in cells]
    if not any(measured):
        return NOT_MEASURED
    if any(cell.percent.sources & foreign for cell in cells):
        return NOT_PROTOCOL
    return INCONCLUSIVE if all(measured) else NOT_MEASURED


def judge(claim: Claim, seen: Numbers, certain: Numbers) -> Evidence:
    """Return what numbers say about a claim; `certain` are the same with ranges to judge by.

    Examples
    --------
    >>> [claim] = [claim for claim in CLAIMS if claim.id == "parameters up to"]
    >>> evidence = judge(claim, *_views(published_frames(), "as published", "equations"))
    >>> evidence.verdict, round(evidence.percent, 1), evidence.cells
    ('holds', 45.1, 'ResNet-50 Uniform (45.11%)')
    """
    cells = claim.cells(seen)
    result = verdict(claim, cells, claim.cells(certain), seen.foreign)
    known = [cell for cell in cells if not math.isnan(cell.percent.value)]
    if not known or (result == NOT_MEASURED and not any(cell.percent.measured for cell in known)):
        return Evidence(result)
    highest_first = claim.some != ("below" in claim.test)
    known.sort(key=lambda cell: getattr(cell, claim.unit).value, reverse=highest_first)
    against = [cell for cell in known if not claim.passes(getattr(cell, claim.unit).value)]
    shown = known[:1] if claim.some or not against else against
    return Evidence(
        result,
        known[0].points.value if known[0].points else math.nan,
        known[0].percent.value,
        _list(shown, claim.unit),
        _source(known, len(cells), claim.unit),
    )


def table(paper: Frames, ours: Frames) -> pd.DataFrame:
    """Return one row for each claim: its numbers and verdicts, by the paper and by our records.

    Ours are of the networks as published, which the claims are about; where the equations give
    other numbers the note has them. Curves are by the equations. A claim's numbers are those of
    its deciding cell: the best for "up to", the one nearest to failing for "every".

    Examples
    --------
    >>> frame = table(published_frames(), our_frames()).set_index("id")
    >>> frame.loc["parameters up to", ["published_verdict", "ours_verdict"]].tolist()
    ['holds', 'holds']
    >>> frame.loc["parameters up to", "note"].split(": ", 1)[0]
    'The one cell that does not follow from F / D. By the equations'
    """
    printed = _views(paper, "as published", "equations")
    as_published, plain = _views(ours, "as published", "equations"), _views(ours, "equations")
    rows = []
    for claim in CLAIMS:
        theirs = judge(claim, *printed)
        if theirs.verdict not in (HOLDS, FAILS):
            theirs = Evidence(NOT_PUBLISHED)
        equations = judge(claim, *plain)
        here = equations if claim.curve else judge(claim, *as_published)
        notes = [claim.reason, _other_reading(claim, printed, theirs)]
        if (equations.verdict, equations.percent) != (here.verdict, here.percent) and (
            not math.isnan(equations.percent)
        ):
            notes.append(f"By the equations: {equations.verdict}, {equations.cells}.")
        notes += [f"Published: {theirs.cells}." if theirs.cells else ""]
        notes += [f"Ours: {here.cells}." if here.cells else ""]
        rows.append(
            {
                "id": claim.id,
                "claim": claim.words,
                "where": claim.where,
                "kind": claim.kind,
                "published_points": theirs.points,
                "published_percent": theirs.percent,
                "published_verdict": theirs.verdict,
                "ours_points": here.points,
                "ours_percent": here.percent,
                "ours_verdict": here.verdict,
                "ours_source": here.source,
                "note": " ".join(filter(None, notes)),
            }
        )
    return pd.DataFrame(rows)


def to_text(frame: pd.DataFrame) -> str:
    """Return a table of claims as lines of at most 100 characters: words, verdicts, note."""
    blocks = []
    for row in frame.itertuples():
        lines = textwrap.wrap(f'"{row.claim}" ({row.where})', 100)
        for name, source in (("published", ""), ("ours", row.ours_source)):
            found = getattr(row, f"{name}_verdict")
            numbers = _numbers(getattr(row, f"{name}_points"), getattr(row, f"{name}_percent"))
            text = f"{name:11}{found:26}{numbers:24}{source}".rstrip()
            lines += textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent=" " * 13)
        lines += textwrap.wrap(row.note, 96, initial_indent="  ", subsequent_indent="  ")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def save(frame: pd.DataFrame, folder: Path) -> None:
    """Write claims as `claims.csv`, `.md` and `.tex` into a folder, each whole or not at all."""
    csv = frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    paths.write_whole(folder / "claims.csv", csv)
    paths.write_whole(folder / "claims.md", to_markdown(frame))
    paths.write_whole(folder / "claims.tex", to_latex(frame))


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a table of claims as Markdown."""
    rows = [["Claim", "Where", "By the paper's tables", "By our records", "Note"]]
    rows += [["---"] * 5, *([*cells, row.note] for cells, row in _cells(frame))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def to_latex(frame: pd.DataFrame, most: int = 12) -> str:
    """Return a table of claims as LaTeX, of each kind as many tables as it needs."""
    tables = []
    for kind, part in frame.groupby("kind", sort=False):
        for start in range(0, len(part), most):
            shown = part.iloc[start : start + most]
            rows = [" & ".join(map(escape, cells)) + r" \\" for cells, _ in _cells(shown)]
            tables.append(
                "\n".join(
                    [
                        r"\begin{table*}",
                        r"\centering\footnotesize",
                        rf"\caption{{The paper's claims on {KINDS[kind]}, put to the test.}}",
                        r"\begin{tabular}{p{.38\textwidth}p{.1\textwidth}*{2}{p{.2\textwidth}}}",
                        r"\toprule",
                        r"Claim & Where & By the paper's tables & By our records \\",
                        r"\midrule",
                        *rows,
                        r"\bottomrule",
                        r"\end{tabular}",
                        r"\end{table*}",
                        "",
                    ]
                )
            )
    return "\n".join(tables)


def _cells(frame: pd.DataFrame) -> Iterator[tuple[list[str], tuple]]:
    """Yield each claim's words, place and two verdicts with their numbers, and its row."""
    for row in frame.itertuples():
        found = []
        for name in ("published", "ours"):
            numbers = (getattr(row, f"{name}_points"), getattr(row, f"{name}_percent"))
            parts = [getattr(row, f"{name}_verdict"), _numbers(*numbers)]
            found.append(": ".join(filter(None, parts)))
        yield [row.claim, row.where, *found], row


def published_frames() -> Frames:
    """Return the published tables as a claim's data: means of three repetitions, without ranges.

    Examples
    --------
    >>> frame = published_frames().accuracy.query("model == 'resnet50' and template == 'uniform'")
    >>> frame[["dataset", "network", "params", "mean"]].values.tolist()[0]
    ['cifar10', 'as published', 12900000, 95.08]
    """
    names = {"memory_gb_per_batch": "memory_gb", "inference_ms_per_batch": "time_ms"}
    cost = _wide(published(3).replace({"quantity": names})).assign(source="published")
    accuracy = _wide(published(1).assign(quantity="mean"), "dataset")
    accuracy["devices"] = accuracy.pop("mean_source")
    accuracy = accuracy.merge(cost.drop(columns=["source", "network"]), on=["model", "template"])
    tiny = _wide(published(2).replace({"quantity": {"accuracy_percent": "mean"}}))
    return Frames(_printed(accuracy), cost, _printed(tiny.assign(dataset=TINY)))


def our_frames(
    accuracy: pd.DataFrame | None = None,
    cost: pd.DataFrame | None = None,
    tiny: pd.DataFrame | None = None,
) -> Frames:
    """Return our own numbers as a claim's data; parameters are counted here, exactly.

    Parameters
    ----------
    accuracy, cost, tiny : DataFrame, optional
        As in `Frames`; None is what needs no training and no measuring.

    Examples
    --------
    >>> our_frames().cost.query("template == 'uniform'").params_millions.tolist()[:2]
    [16.00461, 18.55993]
    """
    counted = _counted("cifar10").assign(memory_gb=math.nan, time_ms=math.nan)
    counted = counted.assign(params_millions=counted["params"] / 1e6, source=COUNTED)
    parts = [counted[COLUMNS["cost"]], cost]
    unmeasured = _counted(TINY).assign(dataset=TINY, width=1.0, n=0, profile="paper")
    unmeasured = unmeasured.assign(mean=math.nan, min=math.nan, max=math.nan)
    return Frames(
        pd.DataFrame(columns=COLUMNS["accuracy"]) if accuracy is None else accuracy,
        pd.concat([part for part in parts if part is not None], ignore_index=True),
        unmeasured.assign(params_source=COUNTED) if tiny is None else tiny,
    )


def tiny_frame(found: Sequence[Table]) -> pd.DataFrame | None:
    """Return Table 2 as a claim's data; None where it is of none of the paper's images."""
    names = {"top1_mean": "mean", "top1_min": "min", "top1_max": "max"}
    frame = pd.concat([table.frame for table in found]).rename(columns=names)
    frame = frame[frame["dataset"] != "digits"].assign(params_source=COUNTED)
    return None if frame.empty else frame


def _wide(paper: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """Return one row for each published network: a column for each quantity, and its source."""
    keys = [*keys, "model", "template"]
    wide = paper.pivot(index=keys, columns="quantity", values="value")
    damaged = paper.pivot(index=keys, columns="quantity", values="doubtful")
    sources = damaged.replace({True: DAMAGED, False: ""}).add_suffix("_source")
    wide = wide.join(sources).reset_index()
    # The numbers are of the published network, where that is not the equations'.
    networks = zip(wide["model"], wide["template"], strict=True)
    return wide.assign(network=[NETWORKS[printed_convention(*network)] for network in networks])


def _printed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies as the tables print them: the mean of three repetitions, at width 1.0."""
    given = {"width": 1.0, "n": 3, "min": math.nan, "max": math.nan, "profile": "published"}
    return frame.assign(params=(frame["params_millions"] * 1e6).round().astype(int), **given)


@cache
def _counted(dataset: str) -> pd.DataFrame:
    """Return every network of Table 1, or of Table 2, with its exact number of parameters."""
    rows = []
    tiny = dataset == TINY
    for model, template, convention in table1_networks(TABLE2_MODELS if tiny else None):
        options = TABLE2_OPTIONS.get(model, {}) if tiny else {}
        classes = DATASETS[dataset].classes
        network = make_network(model, template, 1.0, classes, convention=convention, **options)
        row = {"model": model, "template": template, "network": NETWORKS[convention]}
        rows.append(row | {"params": network.params})
    return pd.DataFrame(rows)


def _views(frames: Frames, *networks: str) -> tuple[Numbers, Numbers]:
    return Numbers(frames, networks), Numbers(frames, networks, certain=True)


def _other_reading(claim: Claim, printed: tuple[Numbers, Numbers], found: Evidence) -> str:
    """Say where the verdict by the published tables hangs on points or percent."""
    if math.isnan(found.points) or claim.test.split()[2] in ("0%", "0points"):
        return ""
    here, unit = ("%", "points") if claim.unit == "percent" else ("points", "%")
    other = replace(claim, test=claim.test.removesuffix(here) + unit)
    judged = judge(other, *printed).verdict
    name = "percent" if unit == "%" else unit
    return "" if judged == found.verdict else f"Published, in {name}: {judged}."


def _list(cells: Sequence[Cell], unit: str, most: int = 4) -> str:
    """Return cells with their numbers, a ? where the paper's text is damaged; the first if many."""
    texts = []
    for cell in cells[:most]:
        span = getattr(cell, unit)
        doubt = "?" if any(DAMAGED in source for source in span.sources) else ""
        texts.append(f"{cell.label} ({_text(span.value, unit)}{doubt})")
    rest = [f"{len(cells) - most} more"] if len(cells) > most else []
    return "; ".join(texts + rest)


def _source(cells: Sequence[Cell], expected: int, unit: str) -> str:
    """Return where numbers come from: profile and device, n, the deciding cell's spread."""
    parts = sorted(set().union(*(cell.percent.sources for cell in cells)))
    seeds = [cell.percent.n for cell in cells if 0 < cell.percent.n < math.inf]
    if seeds:
        low, high = min(seeds), max(seeds)
        parts.append(f"n = {low}" if low == high else f"n = {low}{DASH}{high}")
    span = getattr(cells[0], unit)
    if 1 < span.n < math.inf and math.isfinite(span.low + span.high):
        parts.append(f"spread {_text(span.low, unit)} to {_text(span.high, unit)}")
    if len(cells) < expected:
        parts.append(f"{len(cells)} of {expected} cells")
    return "; ".join(parts)


def _numbers(points: float, percent: float) -> str:
    both = (points, "points"), (percent, "percent")
    return ", ".join(_text(value, unit) for value, unit in both if not math.isnan(value))


def _text(value: float, unit: str) -> str:
    if math.isinf(value):
        return "never"  # no width reaches the base's accuracy
    return f"{value:.2f}{'%' if unit == 'percent' else ' points'}"
