"""What the tests of training look at: records, files and lines of output."""

import re

from fredist.runs import read_record
from fredist.train import train


def records(folder):
    """Return the records in a folder by run; more than one for a run is an error."""
    found = [read_record(path) for path in sorted(folder.glob("*.json"))]
    assert len({record.run_id for record in found}) == len(found)
    return {record.run_id: record for record in found}


def outcome(record):
    return record.results, record.history


def straight(run, digits):
    """Return what a run gives that nothing interrupts."""
    results, progress = train(run, digits)
    return results, progress.history


def unfinished(folder, run, ending):
    return folder / "unfinished" / f"{run.name}.{ending}"


def trained(shown):
    """Return the runs named in the lines that were printed, in order."""
    return re.findall(r"^\[\d+/\d+\] (.*?): ", shown, re.MULTILINE)
