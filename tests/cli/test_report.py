"""`subp report`: one page that stands alone, whose tables hold the numbers of runs and measurements."""

import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

from subp import Sparsifier, cli, models
from subp.training import checkpoint, log
from subp.training.checkpoint import Checkpoint

HISTORY = [
    {
        "epoch": epoch,
        "train_loss": 2.125 - epoch,
        "val_loss": 2.5 - epoch,
        "train_accuracy": 0.25,
        "val_accuracy": 0.375,
    }
    | {"density": 1 - 0.75 * epoch, "lr": 0.125, "images_per_s": 512.5}
    for epoch in range(2)
]

CHURN = {"layer<3>.0": [[0, 4, 16, 12, 0], [1, 4, 16, 2, 2]], "layer1.0": [[0, 10, 32, 22, 0], [1, 8, 32, 5, 3]]}


class Page(HTMLParser):
    """The page's rows of cells, and what it asks a browser to fetch."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.fetched, self.tags, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value[0] != "#"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.inside = tag in ("td", "th")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def row(engine, sparsity, ms):
    return {
        "network": "net<b>",
        "engine": engine,
        "n": 16 if sparsity else None,
        "sparsity": sparsity,
        "threads": 1,
    } | {**{"precision": "float32", "batch": 1, "median_ms": ms, "p90_ms": ms, "min_ms": ms, "target": "host"}}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """(a folder as `subp train` leaves it, a file as `subp bench --json` writes)"""
    folder = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    model = models.create("resnet20", 10, in_channels=1)
    Sparsifier(model, n=16, sparsity=0.75, criterion="l1", epochs=1, start=0, end=0).step(0)
    about = {"architecture": {"name": "resnet20", "num_classes": 10, "in_channels": 1}, "history": HISTORY}
    about["churn"] = CHURN
    about |= {"preprocessing": {"size": 8, "channels": 1}, "config": {"method": "subp", "n": 16, "sparsity": 0.75}}
    (folder / "run").mkdir()
    checkpoint.save(folder / "run" / "model.safetensors", Checkpoint(model.state_dict(), metadata=about))
    rows = [row("onnxruntime", 0.0, 4.5), row("subp-sparse", 0.5, 3.25), row("subp-sparse", 0.75, 1.5)]
    steps = [
        {"layer": "conv<1>", "kernel": "direct 1x16", "median_us": 12.5, "share_of_peak": 0.5},
        {"layer": "", "kernel": "pool", "median_us": 3.25, "share_of_peak": None},
    ]
    profiles = [{"network": "net<b>", "sparsity": 0.75, "threads": 2, "steps": steps}]
    content = {"measurements": rows, "machine": {"cpu": "a <CPU>"}, "profiles": profiles}
    (folder / "bench.json").write_text(json.dumps(content))
    return folder / "run", folder / "bench.json"


def test_the_page_holds_every_number_and_fetches_nothing(sources, tmp_path):
    output = tmp_path / "report.html"
    assert cli.exit_code(["report", *map(str, sources), "-o", str(output), "--title", "runs & times"]) == 0
    text = output.read_text()
    page = Page(text)
    assert page.fetched == [] and "script" not in page.tags and "b" not in page.tags
    assert "<title>runs &amp; times</title>" in text and "a &lt;CPU&gt;" in text
    assert ["1", "2.125", "2.5", "0.25", "0.375", "1", "0.125", "512.5"] in page.rows
    assert ["2", "1.125", "1.5", "0.25", "0.375", "0.25", "0.125", "512.5"] in page.rows
    layer = next(each for each in page.rows if each and each[0] == "layer3.0.conv2")
    assert layer[1:6] == ["Conv2d", "64x64x3x3", "16", "25.0%", "yes"]
    assert "1x16: 16 of 64 in a row" in text
    times = [each[7] for each in page.rows if each and each[0] == "net<b>"]
    assert times == ["1.5", "3.25", "4.5"]
    assert ["conv<1>", "direct 1x16", "12.5", "0.5"] in page.rows and ["-", "pool", "3.25", "-"] in page.rows
    assert "net&lt;b&gt;, 75% pruned, 2 threads: where the time goes" in text
    assert ["float32", "75%", "3"] in page.rows and ["float32", "50%", "1.385"] in page.rows
    assert page.tags.count("svg") == 7  # curves, layers, masks that moved, blocks, latencies, speed-up, time by layer
    assert "#010203" not in text and "currentColor" in text
    assert "break-even" in text and "prefers" not in text and "color-scheme: light dark" in text


def test_the_tables_of_masks_are_the_file_and_its_sums(sources, tmp_path):
    output, file = tmp_path / "report.html", tmp_path / "masks.csv"
    assert cli.exit_code(["report", str(sources[0]), "-o", str(output)]) == 0
    rows = Page(output.read_text()).rows
    log.write_csv(file, log.masks_rows(CHURN))
    lines = list(csv.reader(file.open()))[1:]
    assert len(lines) == 4
    place = rows.index(["epoch", "layer", "kept", "of", "newly pruned", "newly kept"])
    assert rows[place + 1 : place + 5] == lines
    assert ["layer<3>.0", "4", "16", "14", "2"] in rows and ["layer1.0", "8", "32", "27", "3"] in rows
    assert ["1", "14", "48", "34", "0"] in rows and ["2", "12", "48", "7", "5"] in rows


def test_of_masks_in_very_many_lines_the_sums_are_shown(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("subp.deployment.report.page.MOST_ROWS", 3)
    assert cli.exit_code(["report", str(sources[0]), "-o", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    rows = Page(text).rows
    assert "4 lines, in the run&#39;s masks.csv" in text and ["1", "layer1.0", "10", "32", "22", "0"] not in rows
    assert ["layer1.0", "8", "32", "27", "3"] in rows and ["2", "12", "48", "7", "5"] in rows


def test_masks_of_epochs_that_the_run_has_not_are_told(sources, tmp_path, capsys):
    held = checkpoint.load(sources[0] / "model.safetensors")
    held.metadata["churn"] = {"layer": [[2, 1, 2, 1, 0]]}
    checkpoint.save(tmp_path / "odd.safetensors", held)
    assert cli.exit_code(["report", str(tmp_path / "odd.safetensors"), "-o", str(tmp_path / "r.html")]) == 2
    said = capsys.readouterr().err
    assert "odd.safetensors is damaged: its churn is not of a run of 2 epochs" in said and said.count("\n") == 1


def test_the_same_runs_give_the_same_figures(sources, tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        assert cli.exit_code(["report", *map(str, sources), "-o", str(tmp_path / name)]) == 0
        pages.append(re.findall("<svg.*?</svg>", (tmp_path / name).read_text(), re.DOTALL))
    assert pages[0] == pages[1]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"measurements": []}', '{"measurements": [{"engine": "a"}]}'])
def test_a_file_without_measurements_is_told(tmp_path, capsys, content):
    (tmp_path / "no.json").write_text(content)
    assert cli.exit_code(["report", str(tmp_path / "no.json"), "-o", str(tmp_path / "r.html")]) == 2
    said = capsys.readouterr().err
    assert "no.json" in said and "subp bench --json" in said and said.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


LOOKED_AT = """<!doctype html><title>of</title><body><script>
const found = []
for (const width of [360, 1600]) {
  const frame = document.createElement("iframe")
  frame.width = width
  frame.onload = () => {
    const page = frame.contentDocument
    const cells = [...page.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent))
    const charts = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width)
    found.push({width, wide: page.documentElement.scrollWidth, charts, cells})
    if (found.length == 2) document.body.textContent = JSON.stringify(found)
  }
  frame.srcdoc = PAGE
  document.body.append(frame)
}
</script>"""


def test_a_browser_shows_it_without_a_word_in_two_widths(sources, tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium to look at the page with (Debian: apt install chromium)")
    report, looked = tmp_path / "report.html", tmp_path / "looked.html"
    assert cli.exit_code(["report", *map(str, sources), "-o", str(report)]) == 0
    looked.write_text(LOOKED_AT.replace("PAGE", json.dumps(report.read_text()).replace("</", "<\\/")))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [chromium, *options, profile, "--dump-dom", looked.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)[1]))
    for page in found:
        assert page["wide"] <= page["width"]  # what is wider scrolls in its own place
        assert len(page["charts"]) == 7 and min(page["charts"]) >= 0.9 * min(page["width"], 540)
        rows = page["cells"]
        assert [cells[7] for cells in rows if cells[0] == "net<b>"] == ["1.5", "3.25", "4.5"]
        assert ["conv<1>", "direct 1x16", "12.5", "0.5"] in rows and ["float32", "75%", "3"] in rows
        assert ["2", "1.125", "1.5", "0.25", "0.375", "0.25", "0.125", "512.5"] in rows
