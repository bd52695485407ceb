"""The points of Figures 2 to 4."""

from recording import write

from fredist import curves
from fredist.recipes import PROFILES
from fredist.runs import Store, make_run


def test_the_points_at_width_1_are_table_1s_runs(tmp_path):
    run = make_run(PROFILES["smoke"], "digits", "vgg19", "uniform")
    taken = write(tmp_path, run, 80.0)
    write(tmp_path, make_run(PROFILES["smoke"], "digits", "vgg19", "uniform", width=0.5), 60.0)
    frame = curves.points("smoke", ["digits"], Store([tmp_path]))
    assert len(frame) == 30
    found = frame.query("n > 0").set_index("width")
    assert found["mean"].to_dict() == {1.0: 80.0, 0.5: 60.0}
    assert found.loc[1.0, "records"] == taken.name
    assert found.loc[1.0, "params_millions"] > found.loc[0.5, "params_millions"] > 0
    shown = curves.to_text(frame, "mean").splitlines()
    assert shown[0].split() == ["dataset", "model", "template", "x", "1", "x", "0.5"]
    assert shown[1].split() == ["digits", "VGG-19", "Uniform", "80.00", "60.00"]
    assert "Profile smoke: 2 of 30 runs, trained on a device." in " ".join(
        curves.caption(frame).split()
    )
