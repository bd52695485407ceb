import itertools
import os
import re
import subprocess
import sys
import zlib

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from fredist import figures, style
from fredist.templates import TEMPLATES

DRAW = """
import sys
from pathlib import Path
import fredist.sweep
assert "matplotlib" not in sys.modules, "training imports matplotlib"
from fredist.figures import distributions, filters_per_layer
from fredist.style import save
frame = filters_per_layer(["vgg19", "mobilenet"])
save(distributions(frame), "figure", Path(sys.argv[1]), frame)
"""

# How linear RGB is seen: Machado and others, 2009, at full severity.
SIGHTS = {
    "common": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}


def draw():
    with style.applied():
        figure = Figure(figsize=(style.COLUMN_WIDTH, 2))
        axis = figure.subplots()
        axis.plot([1, 2], [-1, 1], label="a − b")
        axis.set(title="Title", xscale="log")
        figure.legend(loc="outside upper center")
    return figure


def contents(paths):
    return [path.read_bytes() for path in paths]


def text_of_pdf(data):
    """Return the PDF with its compressed streams expanded."""
    expanded = [data]
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            expanded.append(zlib.decompress(stream))
        except zlib.error:
            continue  # not a compressed one
    return b"\n".join(expanded)


def seen(color, sight):
    """Return a colour as seen, in CIE L*a*b*, where 2 is the least difference that is noticed."""
    color = np.array(color)
    linear = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8729]]
    xyz = to_xyz @ np.clip(SIGHTS[sight] @ linear, 0, 1)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_template_differs_in_marker_and_in_line_style():
    looks = style.TEMPLATE_STYLES
    assert tuple(looks) == TEMPLATES
    assert len({look.marker for look in looks.values()}) == 5
    assert len({look.linestyle for look in looks.values()}) == 5


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_are_far_apart_for_every_sight_and_not_too_light(sight):
    shown = [seen(look.color, sight) for look in style.TEMPLATE_STYLES.values()]
    for first, second in itertools.combinations(shown, 2):
        assert np.linalg.norm(first - second) > 20
    assert max(lightness for lightness, _, _ in shown) < 75


def test_colours_differ_in_lightness_for_grey_print():
    shown = sorted(seen(look.color, "common")[0] for look in style.TEMPLATE_STYLES.values())
    assert min(np.diff(shown)) > 3


def test_labels_are_the_papers_words():
    assert [look.label for look in style.TEMPLATE_STYLES.values()] == [
        "Base",
        "Reverse-Base",
        "Uniform",
        "Quadratic",
        "Negative-Quadratic",
    ]


def test_the_style_ends_with_its_block_and_ignores_the_users_settings():
    with matplotlib.rc_context({"lines.linewidth": 9, "figure.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        with style.applied():
            assert matplotlib.rcParams["lines.linewidth"] == 1.0
            assert matplotlib.rcParams["figure.facecolor"] == "white"
        assert dict(matplotlib.rcParams) == before


def test_the_font_is_one_that_matplotlib_ships():
    found = font_manager.findfont(style.STYLE["font.family"], fallback_to_default=False)
    assert found.startswith(matplotlib.get_data_path())


def test_saving_again_and_drawing_again_give_the_same_bytes(tmp_path):
    figure = draw()
    first = contents(style.save(figure, "figure", tmp_path))
    assert contents(style.save(figure, "figure", tmp_path)) == first
    assert contents(style.save(draw(), "figure", tmp_path)) == first


def test_another_process_with_other_settings_and_another_date_gives_the_same_bytes(tmp_path):
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 20\npdf.fonttype: 3\nsavefig.bbox: tight\naxes.grid: False\n")
    other = {"PYTHONHASHSEED": "2", "MATPLOTLIBRC": str(settings), "SOURCE_DATE_EPOCH": "0"}
    there = [sys.executable, "-c", DRAW, str(tmp_path / "there")]
    subprocess.run(there, env=os.environ | other, check=True)
    frame = figures.filters_per_layer(["vgg19", "mobilenet"])
    style.save(figures.distributions(frame), "figure", tmp_path / "here", frame)
    here, there = (sorted((tmp_path / name).iterdir()) for name in ("here", "there"))
    assert len(here) == 3
    assert contents(here) == contents(there)


def test_files_hold_no_date_and_no_version(tmp_path):
    pdf, png = style.save(draw(), "figure", tmp_path)
    text = text_of_pdf(pdf.read_bytes())
    assert b"CreationDate" not in text
    assert b"matplotlib" not in text.lower()
    assert not Image.open(png).text


def test_fonts_are_embedded_as_truetype(tmp_path):
    text = text_of_pdf(style.save(draw(), "figure", tmp_path)[0].read_bytes())
    assert not re.search(rb"/Subtype\s*/Type3", text)
    assert b"/FontFile2" in text
    assert b"DejaVuSans" in text


@pytest.mark.parametrize("width", [style.COLUMN_WIDTH, style.TEXT_WIDTH])
def test_files_have_the_size_that_was_asked_for(tmp_path, width):
    with style.applied():
        figure = Figure(figsize=(width, 2))
        figure.subplots().set(ylabel="a label")
    pdf, png = style.save(figure, "figure", tmp_path)
    assert f"/MediaBox [ 0 0 {width * 72:g} 144 ]".encode() in pdf.read_bytes()
    assert Image.open(png).size == (width * 300, 600)
    assert Image.open(png).info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_frame_is_saved_beside_its_figure(tmp_path):
    frame = pd.DataFrame({"layer": [1, 2], "filters": [64.0, 184 / 3]})
    saved = style.save(draw(), "figure", tmp_path / "new", frame)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "figure.csv",
        "figure.pdf",
        "figure.png",
    ]
    assert saved[2].read_bytes() == b"layer,filters\n1,64\n2,61.3333\n"


def test_a_figure_that_cannot_be_drawn_leaves_the_earlier_files_as_they_were(tmp_path):
    before = contents(style.save(draw(), "figure", tmp_path))
    broken = draw()
    broken.axes[0].set_title(r"$\nosuchcommand$")
    with pytest.raises(ValueError, match="nosuchcommand"):
        style.save(broken, "figure", tmp_path)
    assert contents(sorted(tmp_path.iterdir())) == before
