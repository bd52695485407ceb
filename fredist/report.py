"""Tables beside the published ones: from records to a frame, and to text, Markdown and LaTeX."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from . import paths
from .data import DATASETS
from .experiments import get_profile, resolve_datasets
from .experiments import table1 as table1_runs
from .models import FAMILIES
from .recipes import PROFILES
from .runs import Store
from .templates import TEMPLATES

TEMPLATE_LABELS = {
    "base": "Base",
    "reverse": "Reverse-Base",
    "uniform": "Uniform",
    "quadratic": "Quadratic",
    "negative_quadratic": "Negative-Quadratic",
}
DASH = "–"


@dataclass(frozen=True)
class Table:
    """One data set's table: a frame with a row for each network, and what to say about it."""

    dataset: str
    profile: str
    frame: pd.DataFrame
    caption: str


def published(table: int) -> pd.DataFrame:
    """Return the paper's numbers of a table, one row each, doubtful ones marked.

    A number is doubtful where the paper's text lost a digit or its decimal point.

    Examples
    --------
    >>> published(1).query("model == 'vgg19' and template == 'quadratic'").value.tolist()
    [94.18, 73.55]
    """
    wide = pd.read_csv(paths.PUBLISHED / f"table{table}.csv")
    keys = [column for column in wide.columns if column not in TEMPLATES]
    long = wide.melt(keys, list(TEMPLATES), "template", "value")
    doubtful = pd.read_csv(paths.PUBLISHED / "doubtful.csv").query("table == @table")
    on = [column for column in ("dataset", "model", "template") if column in long.columns]
    if "quantity" in long.columns and "dataset" not in long.columns:
        on.append("quantity")
    marked = long.merge(doubtful[on].assign(doubtful=True), how="left", on=on)
    return marked.assign(doubtful=marked["doubtful"].eq(True))


def table1(
    profile: str, datasets: Sequence[str] | None = None, store: Store | None = None
) -> list[Table]:
    """Return Table 1 of a profile, one `Table` for each data set, from every record there is.

    Rows follow the equations; where the published network is another one, a row of its own
    follows, and a published accuracy stands only in the row of the network it describes. The
    frame's accuracies are last-epoch top-1 percentages on the test split.

    Examples
    --------
    >>> [table] = table1("narrow", ["cifar10"], Store([]))
    >>> table.frame[["model", "template", "n", "published"]].head(1).to_dict("records")
    [{'model': 'vgg19', 'template': 'base', 'n': 0, 'published': 93.52}]
    """
    store = Store() if store is None else store
    paper = published(1).set_index(["dataset", "model", "template"])
    tables = []
    for dataset in resolve_datasets(profile, datasets):
        rows, records = [], []
        shown = dataset if dataset in paper.index.levels[0] else "cifar10"
        runs = {
            (r.model, r.template, r.convention): r
            for r in table1_runs(profile, [dataset], seeds=[0])
        }
        for (model, template, convention), run in runs.items():
            found = store.replicates(run)
            records += found.values()
            accuracies = [record.results["test_top1"] for record in found.values()]
            described = (
                "published" if (model, template, "published") in runs else "equations"
            ) == convention
            value = paper.loc[(shown, model, template)]
            rows.append(
                {
                    "dataset": dataset,
                    "profile": profile,
                    "model": model,
                    "template": template,
                    "network": "as published" if convention == "published" else "equations",
                    "width": run.width,
                    "built_width": float(run.built_width),
                    "n": len(accuracies),
                    "mean": sum(accuracies) / len(accuracies) if accuracies else None,
                    "min": min(accuracies, default=None),
                    "max": max(accuracies, default=None),
                    "published": value["value"] if described else None,
                    "published_dataset": shown if described else None,
                    "doubtful": bool(value["doubtful"]) and described,
                    "records": " ".join(record.path.name for record in found.values()),
                }
            )
        frame = pd.DataFrame(rows)
        tables.append(
            Table(dataset, profile, frame, _caption(profile, dataset, shown, frame, records))
        )
    return tables


def gains(table: Table) -> pd.DataFrame:
    """Return, for each model, its best template's accuracy above the base, here and published.

    In percentage points; "here" is over the rows with records, "published" over the paper's.
    """
    rows = []
    for model, part in table.frame.groupby("model", sort=False):
        row = {"model": FAMILIES[model].label}
        for column, label in (("mean", "here"), ("published", "published")):
            values = part.dropna(subset=[column]).assign(
                label=lambda d: (
                    d["template"].map(TEMPLATE_LABELS)
                    + d["network"].map({"equations": "", "as published": " (as published)"})
                )
            )
            base = values.loc[values["template"] == "base", column]
            others = values[values["template"] != "base"]
            if base.empty or others.empty:
                row |= {label: DASH, f"{label} +": DASH}
            else:
                best = others.loc[others[column].astype(float).idxmax()]
                row |= {label: best["label"], f"{label} +": f"{best[column] - base.iloc[0]:+.2f}"}
        rows.append(row)
    return pd.DataFrame(rows)


def differences(profile: str) -> list[str]:
    """Return how a profile differs from the paper's text, in words.

    Examples
    --------
    >>> differences("paper128")
    ['batch size 128 instead of 16']
    """
    this, paper = get_profile(profile), PROFILES["paper"]
    stated = asdict(paper.recipe)
    words = {"lr": "learning rate", "lr_steps": "learning rate steps"}
    result = [
        f"{words.get(name, _plain(name))} {_plain(value)} instead of {_plain(stated[name])}"
        for name, value in asdict(this.recipe).items()
        if value != stated[name]
    ]
    if len(this.seeds) != len(paper.seeds):
        result.append(f"{len(this.seeds)} repetition instead of {len(paper.seeds)}")
    reduction = this.reduction
    if reduction.width_factor != 1:
        result.append(f"every width multiplied by {reduction.width_factor:g}")
    for split in ("train", "test"):
        if limit := getattr(reduction, f"{split}_images"):
            result.append(f"at most {limit:,} {split} images")
    return result


def to_text(table: Table) -> str:
    """Return a table as plain lines of at most 100 characters, one network each."""
    lines = [f"{'':11}{'':28}{'mean':>7}{'min':>8}{'max':>8}{'n':>4}{'published':>12}"]
    previous = None
    for row in table.frame.itertuples():
        model = FAMILIES[row.model].label if row.model != previous else ""
        previous = row.model
        name = TEMPLATE_LABELS[row.template] + (
            ", as published" if row.network == "as published" else ""
        )
        numbers = [f"{v:.2f}" if row.n else DASH for v in (row.mean, row.min, row.max)]
        paper = _published(row) if not pd.isna(row.published) else ""
        lines.append(
            f"{model:11}{name:28}{numbers[0]:>7}{numbers[1]:>8}{numbers[2]:>8}{row.n:>4}{paper:>11}".rstrip()
        )
    return "\n".join([*textwrap.wrap(table.caption, 88), "", *lines])


def to_markdown(table: Table) -> str:
    """Return a table in the paper's layout as Markdown; a blank is the network of the row above."""
    header = ["Model", *TEMPLATE_LABELS.values()]
    lines = [" | ".join(header), " | ".join(["---"] * len(header))]
    for label, cells in _layout(table):
        texts = []
        for row in cells:
            text = "" if row is None else _cell(row)
            if row is not None and not pd.isna(row.published):
                text += f" · {_published(row)}"
            texts.append(text)
        lines.append(" | ".join([label, *texts]))
    body = "\n".join(f"| {line} |" for line in lines)
    return f"**Table 1.** {table.caption}\n\n{body}\n"


def to_latex(table: Table) -> str:
    r"""Return a table as LaTeX; it needs \usepackage{booktabs}."""
    rows = []
    for label, cells in _layout(table):
        ours = [_escape(_cell(row)) if row is not None else "" for row in cells]
        paper = [
            _escape(_published(row)) if row is not None and not pd.isna(row.published) else ""
            for row in cells
        ]
        rows += [" & ".join([_escape(label), *ours]), " & ".join([r"\quad published", *paper])]
    header = " & ".join(["Model", *TEMPLATE_LABELS.values()])
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize",
            rf"\caption{{{_escape(table.caption)}}}",
            r"\begin{tabular}{lccccc}",
            r"\toprule",
            header + r" \\",
            r"\midrule",
            *(row + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def save(tables: Sequence[Table], name: str, folder: Path) -> None:
    """Write tables as `<name>.csv`, `.md` and `.tex` into a folder, each whole or not at all."""
    frame = pd.concat([table.frame for table in tables])
    paths.write_whole(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.4f"))
    paths.write_whole(folder / f"{name}.md", "\n".join(map(to_markdown, tables)))
    paths.write_whole(folder / f"{name}.tex", "\n".join(map(to_latex, tables)))


def picture(table: Table, path: Path) -> None:
    """Draw the text of a table as a PNG."""
    import matplotlib.pyplot as plt  # slow to import, and needed here only

    text = to_text(table)
    rows = text.count("\n") + 1
    figure = plt.figure(figsize=(8.2, 0.18 * rows + 0.3), dpi=150)
    figure.text(0.02, 0.98, text, family="monospace", fontsize=8.5, va="top")
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    paths.write_whole(path, buffer.getvalue())


def best_profile(dataset: str, store: Store) -> str | None:
    """Return the first profile, best first, with every network of Table 1 on this set at seed 0."""
    for profile in PROFILES:
        if all(store.find(run) for run in table1_runs(profile, [dataset], seeds=[0])):
            return profile
    return None


def _caption(profile: str, dataset: str, shown: str, frame: pd.DataFrame, records: list) -> str:
    info, settings = DATASETS[dataset], get_profile(profile)
    expected = len(frame) * len(settings.seeds)
    devices = sorted({record.provenance["device"] for record in records})
    parts = [
        f"{info.label}: top-1 test accuracy in percent after the last epoch, mean [min{DASH}max] "
        f"(n runs) · the paper's number on {DATASETS[shown].label} (? where its text is damaged).",
        f"Profile {profile}: {len(records)} of {expected} runs"
        + (f", trained on {'; '.join(devices)}." if devices else "."),
    ]
    if dataset == "digits":
        parts.append("The images are scikit-learn's handwritten digits, none of the paper's sets.")
    if changes := differences(profile):
        parts.append(f"Unlike the paper: {'; '.join(changes)}.")
    factor = settings.reduction.width_factor
    if factor != 1:
        parts.append(f"Width 1.0 is built at {factor:g}: these are not the paper's networks.")
    if profile not in ("paper", "paper128"):
        parts.append("Not the paper's protocol.")
    else:
        parts.append(
            "Open in the paper, chosen here: momentum 0.9, Nesterov, weight decay 5e-4, timm's "
            "initialisation, training-set mean and deviation."
        )
    return " ".join(parts)


def _layout(table: Table):
    """Yield the paper's rows: a label and, per template, a row of the frame or None."""
    for model in dict.fromkeys(table.frame["model"]):
        for network in ("equations", "as published"):
            part = table.frame.query("model == @model and network == @network")
            if len(part):
                by_template = {row.template: row for row in part.itertuples()}
                label = FAMILIES[model].label + (
                    ", as published" if network == "as published" else ""
                )
                yield label, [by_template.get(template) for template in TEMPLATES]


def _cell(row) -> str:
    if not row.n:
        return DASH
    spread = f" [{row.min:.2f}{DASH}{row.max:.2f}]" if row.n > 1 else ""
    return f"{row.mean:.2f}{spread} ({row.n})"


def _published(row) -> str:
    return f"{row.published:.2f}{'?' if row.doubtful else ''}"


def _plain(value) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return str(value).replace("_", " ")


def _escape(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, f"\\{character}")
    return text.replace(DASH, "--").replace("·", r"\,\textbullet\,")
