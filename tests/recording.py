"""Records for the tests of what is made of records."""

from fredist.runs import write_record

DEVICE = "a device"


def write(folder, run, top1, finished="2026-01-01T00:00:00+00:00", device_type="cpu"):
    """Write a run's record into a folder and return its path."""
    results = {"test_top1": top1, "test_top5": 99.0, "train_top1": 50.0}
    provenance = {"device": DEVICE, "device_type": device_type, "finished": finished}
    return write_record(run, results, {"loss": [1.0], "train_top1": [50.0]}, provenance, folder)
