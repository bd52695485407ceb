"""The explorer as its users meet it: JupyterLab in a real browser, on a copy of the notebook."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median

import pytest

import fredist
from fredist import paths
from fredist.notebook import _environment

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: apt-get install chromium"),
]
SECONDS = 60_000  # ms, for what takes a few seconds on an idle machine
# The times from a key to the new lines of Python, before which the plot has come and is decoded.
WATCH = """() => {
    const image = document.querySelector(".fredist img"); let start = null
    window.answers = []; window.changes = 0
    document.addEventListener("keydown", () => { start = performance.now() }, true)
    new MutationObserver(async () => {
        changes += 1
        if (start === null) return
        const since = start; start = null
        await image.decode().catch(() => {})  // a newer plot has come: as good
        answers.push(performance.now() - since)
    }).observe(document.querySelector(".fredist pre").closest(".widget-html"), {
        childList: true, subtree: true, characterData: true })
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Start JupyterLab without any settings of the user's, and return the notebook's address."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "notebooks"
    folder.mkdir()
    shutil.copy(paths.NOTEBOOKS / "explore.ipynb", folder)
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "HOME": "."}
    places |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    places |= {"IPYTHONDIR": "ipython", "JUPYTER_DATA_DIR": "data", "FREDIST_DATA": "images"}
    own = {variable: str(home / place) for variable, place in places.items()}
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=word"]
    environment = {k: v for k, v in _environment().items() if k != "FREDIST_PLAIN"} | own
    with open(home / "log", "w") as log:
        command.append(f"--ServerApp.root_dir={folder}")
        lab = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token=word").close()
                break
            except OSError:
                assert lab.poll() is None, (home / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=word"
    finally:
        lab.terminate()  # it ends its kernels
        lab.wait(timeout=30)


@pytest.fixture(scope="module")
def page(address):
    """Open the notebook, run all its cells, and return the page once networks are answered."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"], "headless": True}
        browser = started.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(SECONDS)
        page.goto(address)
        page.locator(".jp-Notebook h1").first.wait_for()
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
        image = page.locator(".fredist img").first
        for second in range(SECONDS // 1000):
            # JupyterLab may drop what is run while its kernel connects, and empties the prompts.
            if not second or prompt.inner_text() == "[ ]:":
                page.get_by_text("Run", exact=True).click()
                page.get_by_text("Run All Cells", exact=True).click()
            if image.is_visible():
                break
            page.wait_for_timeout(1_000)
        assert image.is_visible(), page.locator(".jp-Notebook").inner_text()
        page.evaluate(WATCH)
        yield page
        browser.close()


@pytest.fixture
def explorer(page):
    """Return the explorer with VGG-19, uniform, at its own MACs."""
    given = {"Network": "vgg19", "Classes": "10", "Image size": "32", "to": "1"}
    for label, value in given.items():
        fill(page, label, value)
    choose(page, "Template", "Uniform")
    choose(page, "Set the", "MACs (original = 1)")
    wait(page, lambda: "Parameters\t20,035,018\t3,129,538\t0.16" in numbers(page))
    yield page
    assert "Traceback" not in page.locator(".jp-Notebook").inner_text()
    assert not page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count()
    assert not page.locator("[data-mime-type='application/vnd.jupyter.error']").count()


def box(page, label):
    row = page.locator(".fredist .widget-inline-hbox")
    return row.filter(has=page.get_by_text(label, exact=True))


def fill(page, label, value):
    field = box(page, label).locator("input").first
    field.fill(value)
    field.press("Enter")
    field.blur()


def choose(page, label, value):
    box(page, label).locator("select").select_option(value)


def numbers(page):
    found = page.locator(".fredist table").first
    return found.inner_text() if found.count() else ""


def python(page):
    return page.locator(".fredist pre").first.inner_text()


def status(page):
    return page.locator(".fredist p").first.inner_text()


def wait(page, true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, (status(page), numbers(page))
        page.wait_for_timeout(20)


def plot(page):
    """Return the bytes of the plot that is shown."""
    fetch = "img => fetch(img.src).then(r => r.text())"
    return page.locator(".fredist img").first.evaluate(fetch)


def screenshot(page, name, tmp_path):
    folder = Path(os.environ.get("FREDIST_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def moves(page, key, times):
    """Press a key on the slider so often, each after the answer to the one before; return ms."""
    page.evaluate("answers.length = 0")
    handle = page.locator(".fredist .noUi-handle").first
    for n in range(times):
        handle.press(key)
        page.wait_for_function(f"answers.length > {n}")
    return page.evaluate("answers")


@pytest.mark.parametrize("model", ["vgg19", "resnet50", "inception", "mobilenet"])
def test_a_slider_changes_plot_and_numbers_at_once(explorer, model, tmp_path):
    fill(explorer, "Network", model)
    choose(explorer, "Set the", "Width")
    wait(explorer, lambda: f'"{model}", "uniform", 1, ' in python(explorer))
    # Its own numbers, not those of the network before; then memory and time, too.
    own = f"Parameters\t{fredist.make_network(model).params:,}\t"
    wait(explorer, lambda: own in numbers(explorer))
    wait(explorer, lambda: "…" not in numbers(explorer))
    if model == "vgg19":
        screenshot(explorer, "before", tmp_path)
    before = plot(explorer), numbers(explorer)
    times = moves(explorer, "ArrowLeft", 20)
    wait(explorer, lambda: "…" not in numbers(explorer))
    after = plot(explorer), numbers(explorer)
    if model == "vgg19":
        screenshot(explorer, "after", tmp_path)
    assert '"uniform", 0.8, ' in python(explorer)
    assert before[0] != after[0]
    for one, other in zip(before[1].splitlines()[1:], after[1].splitlines()[1:], strict=True):
        name, original, changed, _ = one.split("\t")
        assert other.startswith(f"{name}\t{original}\t")  # the original stays, measured or not
        assert name.startswith("Time") or not other.startswith(f"{name}\t{original}\t{changed}\t")
    print(f"{model}: {median(times):.0f} ms from a key to the new plot, at most {max(times):.0f}")


def test_a_slider_is_answered_while_it_is_drawn_and_where_it_ends(explorer):
    choose(explorer, "Set the", "Width")
    wait(explorer, lambda: '"uniform", 1, ' in python(explorer))
    handle = explorer.locator(".fredist .noUi-handle").first.bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    explorer.mouse.move(x, y)
    explorer.mouse.down()
    explorer.evaluate("changes = 0")
    for step in range(40):
        explorer.mouse.move(x - 2 * step, y)
        explorer.wait_for_timeout(20)
    assert explorer.evaluate("changes") > 2
    explorer.mouse.up()
    explorer.wait_for_timeout(1000)
    width = float(box(explorer, "to").locator("input").input_value())
    assert 0.1 < width < 0.5
    assert f'"uniform", {width:g}, ' in python(explorer)


def test_a_budget_says_its_number_and_finds_the_width(explorer):
    moves(explorer, "ArrowLeft", 1)
    assert "macs=394154956" in python(explorer)


def test_a_budget_of_memory_is_searched_while_the_page_waits(explorer, tmp_path):
    choose(explorer, "Set the", "Memory (original = 1)")
    wait(explorer, lambda: "Searching the largest width" in status(explorer))
    wait(explorer, lambda: 'like="memory", num_classes=10' in python(explorer), 120)
    screenshot(explorer, "memory", tmp_path)


@pytest.mark.parametrize(
    ("label", "value", "sentence"),
    [
        ("Network", "resnet5000", "Expected one of the paper's networks, timm's or torchvision's"),
        ("Network", "vgg_19", "did you mean 'vgg19'"),
        ("Network", "<b>x</b>", "got '<b>x</b>'"),
        ("to", "0", "Expected a finite number above 0 as budget, got 0.0."),
        ("to", "-1", "Expected a finite number above 0 as budget, got -1.0."),
        ("to", "0.00001", "as macs, got 3,981."),
        ("to", "1000", "Expected at most 100 as budget, got 1000.0."),
        ("Classes", "0", "Expected an integer of at least 1 as num_classes, got 0."),
        ("Image size", "8", "Expected images of at least 16x16 for VGG-19"),
    ],
)
def test_what_is_wrong_is_a_sentence(explorer, label, value, sentence):
    fill(explorer, label, value)
    wait(explorer, lambda: sentence in status(explorer))
    assert not numbers(explorer)  # none of another network's
    assert not explorer.locator(".fredist img").first.is_visible()
    if value == "resnet5000":
        folder = Path(os.environ.get("FREDIST_SCREENSHOTS") or ".")
        if os.environ.get("FREDIST_SCREENSHOTS"):
            screenshot(explorer, "wrong", folder)


def test_a_network_is_traced_while_the_page_answers(explorer):
    fill(explorer, "Network", "resnet18")
    wait(explorer, lambda: "Tracing resnet18" in status(explorer))
    fill(explorer, "Network", "mobilenet")  # which ends it
    wait(explorer, lambda: "Parameters\t3,217,226" in numbers(explorer), seconds=1)
    fill(explorer, "Network", "resnet18")
    wait(explorer, lambda: "Tracing resnet18" in status(explorer))
    explorer.get_by_role("button", name="Stop").first.click()
    wait(explorer, lambda: status(explorer) == "Stopped.", seconds=1)
    explorer.get_by_role("button", name="Again").click()
    wait(explorer, lambda: "Parameters\t11,181,642" in numbers(explorer))
    moves(explorer, "ArrowLeft", 5)
    wait(explorer, lambda: "…" not in numbers(explorer))


def test_a_training_draws_as_it_goes_and_stops(explorer, tmp_path):
    choose(explorer, "Set the", "Width")
    fill(explorer, "to", "0.055")
    explorer.get_by_role("tab", name="Training").click()
    box(explorer, "Epochs").locator("input").fill("99")
    explorer.get_by_role("button", name="Train").click()
    curve = explorer.locator(".fredist img").nth(1)
    curve.wait_for()
    first = curve.get_attribute("src")
    wait(explorer, lambda: curve.get_attribute("src") != first)
    moves(explorer, "ArrowRight", 5)  # beside it
    wait(explorer, lambda: "after the training" in status(explorer))
    pages = explorer.locator(".fredist pre")  # the last says how far it is
    wait(explorer, lambda: pages.all_inner_texts()[-1] > "1")
    curve.scroll_into_view_if_needed()
    screenshot(explorer, "training", tmp_path)
    explorer.get_by_role("button", name="Stop").last.click()
    explorer.get_by_role("button", name="Train").wait_for()
    last = curve.get_attribute("src")
    wait(explorer, lambda: "…" not in numbers(explorer))  # what had to wait
    assert curve.get_attribute("src") == last
    explorer.get_by_role("tab", name="Python").click()
