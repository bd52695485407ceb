"""What the paper has printed: the numbers of its tables."""

import pandas as pd

from .paths import PUBLISHED
from .templates import TEMPLATES

# What each printed number is, very likely (NOTES, section 5): the quantity of ours that was taken
# in the same way stands beside it.
_LIKE = {
    (1, "accuracy_percent"): "top1_best",
    (2, "accuracy_percent"): "train_top1_best",
    (2, "params_millions"): "params_millions",
    (3, "params_millions"): "params_millions",
    (3, "memory_gb_per_batch"): "memory_code_gb",
    (3, "inference_ms_per_batch"): "time_code_16_ms",
}


def published(table: int) -> pd.DataFrame:
    """Return the paper's numbers of a table, one row each, doubtful ones marked.

    `quantity` is the name of what we measure in the same way. A number is doubtful where the
    paper's text can be read in more than one way.

    Examples
    --------
    >>> published(1).query("model == 'vgg19' and template == 'quadratic'").value.tolist()
    [94.18, 73.55]
    """
    wide = pd.read_csv(PUBLISHED / f"table{table}.csv")
    keys = [column for column in wide.columns if column not in TEMPLATES]
    rows = wide.melt(keys, list(TEMPLATES), "template", "value")
    doubtful = pd.read_csv(PUBLISHED / "doubtful.csv").query("table == @table")
    if "quantity" not in rows:
        rows["quantity"] = "accuracy_percent"
    on = [c for c in ("dataset", "model", "template", "quantity") if c in rows]
    rows = rows.merge(doubtful[on].assign(doubtful=True), how="left", on=on)
    rows["doubtful"] = rows["doubtful"].eq(True)
    rows["quantity"] = [_LIKE[table, quantity] for quantity in rows["quantity"]]
    if "dataset" not in rows:
        rows["dataset"] = "tiny-imagenet" if table == 2 else ""
    return rows[["dataset", "model", "template", "quantity", "value", "doubtful"]]
