"""The page of a run, from the files that FLARE leaves; in a real browser where one is installed."""

import json
import re
import shutil

import pytest
from torch.utils.tensorboard import SummaryWriter

from browser import CHROMIUM, browser
from fedmr.reports.html import _duration, _size, write_html
from fedmr.reports.html.charts import chart
from fedmr.runs.checks import RunError
from fedmr.runs.records import FINAL_MODEL
from fedmr.runs.run import Run
from pages import page, words
from runs import CONFIGS, HOSTILE, LOG, SITES, TIMES, metrics, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "w")


def test_the_page_states_the_result_the_task_and_every_figure(run):
    text = words(page(run))
    for part in (
        f"MSCAN {TIMES}2 gains +1.50 dB over zero-filled on 6 test scans of 3 sites",
        "not a medical device",
        "3 rounds of federated training (10 planned)",
        "site-2 2 31.00 0.7750 0.0323 30.00 0.7500 0.0333 32.50 0.8125 0.0308 +1.50",
        "mean of sites 6 31.00",
        "157,156 parameters",
        "Weight differences after every round, with the number of optimisation steps",
        "neither clipped nor noised",
        "Not homomorphic",
        "server/simulate_job/app_server/best_FL_global_model.pt",
        "FL_global_model.pt 2.5 kB",
        "site-3 3 1.9 MB 3 1",
    ):
        assert part in text, part
    assert "incomplete" not in text


def test_what_the_guard_left_out_and_what_filters_did_is_shown_where_there_is_something(run):
    assert "Left out by the server" not in words(page(run))
    assert "Epsilon so far" not in words(page(run))
    record = {"round": 1, "site": "site-2", "reason": f"it has a variable {HOSTILE}", "norm": 12345.0}
    (run / "server" / "simulate_job" / "guard.jsonl").write_text(json.dumps(record))
    (run / "site-1" / "simulate_job").mkdir(parents=True)
    local = {"filter": "F", "cosine": 0.625, "norm_ratio": 1.5}
    (run / "site-1" / "simulate_job" / "fedmr_privacy.jsonl").write_text(json.dumps(local) + "\n")
    with SummaryWriter(str(run / "server" / "simulate_job" / "tb_events" / "site-3")) as writer:
        writer.add_scalar("privacy/epsilon_patient", 2.75, 1)
    text = page(run)
    assert HOSTILE not in text
    for part in (
        "Left out by the server",
        f"1 site-2 it has a variable {HOSTILE} 1.23e+04",
        "Epsilon so far, per patient",
        "release 1 site-3 2.750",
        "Cosine of sent and true update",
        "update 0 site-1 0.6250",
        "update 0 site-1 1.500",
    ):
        assert part in words(text), part


def test_private_training_is_not_called_without_a_guarantee(run):
    source = CONFIGS.parents[2] / "mscan_dpsgd" / "app" / "config"
    shutil.copytree(source, run / "server" / "simulate_job" / "app_server" / "config", dirs_exist_ok=True)
    text = words(page(run))
    assert "made by training that is differentially private. DP-SGD For every slice: gradients clipped to 0.05" in text
    assert "no differential-privacy guarantee" not in text


def test_large_numbers_stay_within_a_chart():
    made = chart("Epsilon", {"site-1": {1: 2.1e6, 2: 61e6}}, decimals=3)
    assert [line.values for line in made.lines] == [["2.1e+06", "6.1e+07"]]
    assert all(len(text) <= 8 for _, text in made.y_ticks)
    assert len({text for _, text in made.y_ticks}) == len(made.y_ticks)


def test_a_loss_is_called_a_loss(run):
    path = run / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    path.write_text(path.read_text().replace('"model": {"psnr": 3', '"model": {"psnr": 2'))
    assert f"MSCAN {TIMES}2 loses 8.50 dB against zero-filled" in words(page(run))


def test_what_comes_from_a_run_is_text_and_never_markup(tmp_path):
    sites = (f"site-{HOSTILE}", "</script><b>", "a & b")
    run = write_run(tmp_path / "w", [name.replace("/", "\N{DIVISION SLASH}") for name in sites])
    config = run / "server" / "simulate_job" / "app_server" / "config" / "config_fed_client.conf"
    config.write_text(config.read_text().replace('name = "mscan"', f'name = """<b>{HOSTILE}"""'))
    meta = run / "server" / "simulate_job" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"name": HOSTILE, "job_id": HOSTILE}))
    text = page(run)
    assert "<img" not in text
    assert HOSTILE not in text
    assert text.count("</script>") == 1
    assert f"FedMR report · {HOSTILE}" in words(text)
    assert "site-<img src=x" in words(text)


def test_the_page_needs_nothing_but_itself(run):
    text = page(run)
    addresses = re.findall(r"""(?:src|href|action|poster|data|srcset)\s*=\s*["']?([^"'\s>]+)""", text)
    assert sum(a.startswith("data:image/png;base64,") for a in addresses) == 3 * 8  # five tiles, three error maps
    downloads = ("data:text/csv;base64,", "data:application/json;base64,")
    assert all(a.startswith(("data:image/png;base64,", "#", *downloads)) for a in addresses)
    assert not re.findall(r"https?://|@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'; img-src data:" in text


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("simulate_job/cross_site_val", "No site reported test figures"),
        ("simulate_job/tb_events", "The server holds no pictures"),
        ("simulate_job/app_server/config", "The network gains +1.50 dB"),
        ("simulate_job/app_server/config/config_fed_server.conf", "configuration is not in this run"),
        ("simulate_job/app_server/FL_global_model.pt", "FL_global_model.pt is missing: the job failed"),
        ("simulate_job/metrics/round_metrics.jsonl", "No round of federated training was completed of 10 planned"),
        ("simulate_job/meta.json", "names no sites"),
        ("log.txt", "log is not in this run"),
        ("pool_stats", "message statistics are not in this run"),
    ],
)
def test_a_missing_file_is_stated_and_the_rest_is_shown(run, missing, note):
    path = run / "server" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = words(page(run))
    assert note in text
    assert "Task and files" in text


def test_an_incomplete_run_has_a_banner_with_the_reason_and_shows_what_is_there(run):
    path = run / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    path.write_text(json.dumps({s: f for s, f in json.loads(path.read_text()).items() if s != "site-2"}))
    with pytest.raises(RunError) as error:
        Run(run).figures()
    text = page(run)
    assert f"This run is incomplete. {error.value}" in words(text)
    assert 'role="alert"' in text
    assert "gains" not in words(text).split("Result")[0]
    assert "2 of 3 sites reported" in words(text)


def test_a_folder_that_is_no_run_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(RunError, match="is no run"):
        write_html(Run(tmp_path), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_empty_run_gets_a_page_without_a_path_of_this_machine(tmp_path):
    (tmp_path / "app_server").mkdir()
    text = words(page(tmp_path))
    assert "This run is incomplete. app_server/FL_global_model.pt is missing" in text
    assert str(tmp_path) not in text


def test_times_and_transfers_are_those_of_the_servers_log(run):
    log = Run(run).log
    first, second = log.rounds[0], log.rounds[1]
    assert (first.seconds, first.down, first.up) == (10.5, 643164, 150018 + 643164)
    assert (second.seconds, second.down, second.up) == (2.0, 0, 0)
    assert first.turns == {"site-1": 4.25}
    assert log.test.down == 1000
    assert log.training_seconds == 12.6
    assert (log.last - log.first).total_seconds() == 18


def test_a_rotated_log_is_read_from_its_oldest_part(run):
    whole = Run(run).log
    lines = LOG.splitlines(keepends=True)
    for name, part in (("log.txt.2", lines[:3]), ("log.txt.1", lines[3:7]), ("log.txt", lines[7:])):
        (run / "server" / name).write_text("".join(part))
    assert Run(run).log == whole


def test_traffic_is_the_sum_of_flares_message_statistics(run):
    assert Run(run).traffic == {"results": {"up": 2 * 2**20, "down": 0}}
    assert "2.1 MB" in words(page(run))


@pytest.mark.parametrize(
    ("path", "stated"),
    [
        (
            "nvflare.app_common.filters.percentile_privacy.PercentilePrivacy",
            "PercentilePrivacy (percentile = 20) on train",
        ),
        ("nvflare.app_opt.he.model_encryptor.HEModelEncryptor", "Homomorphic: the job"),
    ],
)
def test_filters_and_encryption_are_stated_as_the_job_configures_them(run, path, stated):
    config = run / "server" / "simulate_job" / "app_server" / "config" / "config_fed_client.conf"
    entry = (
        f'task_result_filters = [{{ tasks = [train], filters = [{{ path = "{path}", args {{ percentile = 20 }} }}] }}]'
    )
    config.write_text(config.read_text().replace("task_result_filters = []", entry))
    text = words(page(run))
    assert stated in text
    assert "neither clipped nor noised" not in text


def test_another_task_than_super_resolution_is_shown_by_its_numbers(run):
    config = run / "server" / "simulate_job" / "app_server" / "config" / "config_fed_client.conf"
    config.write_text(config.read_text().replace("clip_norm", "acceleration"))
    text = words(page(run))
    assert "acceleration 0.5" in text
    assert "MSCAN gains" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_097_152, "2.1 MB"), (3.2e9, "3.2 GB")]
)
def test_sizes_are_decimal(value, text):
    assert _size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.2 s"), (59.4, "59.4 s"), (59.7, "1 min 00 s"), (275, "4 min 35 s"), (7_260, "2 h 01 min")],
)
def test_durations_are_readable(value, text):
    assert _duration(value) == text


@pytest.fixture(scope="module")
def view():
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page in")
    with browser() as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_a_browser_shows_the_page_without_complaint_at_any_width(view, run, width, dark):
    page(run)
    view.open(run / "report.html", width=width, dark=dark)
    assert view.evaluate("document.documentElement.scrollWidth") == width
    background = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", background))) < 60) is dark
    widths = view.evaluate(
        "Promise.all([...document.querySelectorAll('image')].map(async (element) => {"
        "const i = new Image(); i.src = element.href.baseVal; await i.decode(); return i.naturalWidth }))"
    )
    assert len(widths) == 3 * 8
    assert min(widths) > 0
    assert view.problems == []
    assert all(request.startswith(("file:", "data:image/png")) for request in view.requests)


def test_pointing_reads_a_curve_and_moves_the_enlarged_box(view, run):
    page(run)
    view.open(run / "report.html")
    view.evaluate(
        "window.point = (selector, x, y) => { const e = document.querySelector(selector), b ="
        "e.getBoundingClientRect(); e.dispatchEvent(new PointerEvent('pointermove',"
        "{clientX: b.left + x * b.width, clientY: b.top + y * b.height, pointerType: 'mouse'})) }"
    )
    outputs = "[...document.querySelector('.legend').querySelectorAll('output')].map((o) => o.textContent)"
    assert view.evaluate(outputs) == ["2", "34.33", "33.00", "34.00", "35.00"]
    view.evaluate("point('.chart svg', 0.1, 0.5)")
    assert view.evaluate(outputs) == ["0", "32.33", "31.00", "32.00", "33.00"]
    view.evaluate("point('.overview svg', 0, 0)")
    zoomed = "[...document.querySelector('.panel').querySelectorAll('[data-zoomed]')]"
    boxes = f"{zoomed}.map((tile) => tile.getAttribute('viewBox'))"
    assert view.evaluate(boxes) == ["0 0 15 15"] * 8
    view.evaluate("const s = document.querySelector('input'); s.value = 1; s.dispatchEvent(new Event('input'))")
    assert view.evaluate(boxes) == ["0 0 45 45"] * 8
    assert view.problems == []


def test_no_script_but_the_pages_own_may_run(view, run):
    text = page(run).replace("</main>", "<script>window.slipped = true</script></main>")
    (run / "report.html").write_text(text)
    view.open(run / "report.html")
    assert view.evaluate("window.slipped === undefined")
    assert any("Content Security Policy" in problem for problem in view.problems)
    view.problems.clear()


def change_results(run, edit):
    path = run / "server" / "simulate_job" / "cross_site_val" / "cross_val_results.json"
    results = json.loads(path.read_text())
    edit(results)
    path.write_text(json.dumps(results))


def add_personal_figures(results):
    for k, row in enumerate(results.values()):
        row[FINAL_MODEL]["personal"] = metrics(32.0 + 2 * k)


def add_models_of_sites(results):
    for k, row in enumerate(results.values()):
        row |= {site: {"n_volumes": 2, "model": metrics(20.25 + k + 3 * j)} for j, site in enumerate(SITES)}


def test_personal_figures_have_a_table_and_absent_ones_none(run):
    assert "Personal models" not in words(page(run))
    change_results(run, add_personal_figures)
    text = words(page(run))
    assert "site-3 33.50 36.00 +2.50" in text
    assert "mean of sites 32.50 34.00 +1.50" in text


def test_a_cross_site_evaluation_is_a_matrix_with_the_best_of_every_column_marked(run):
    assert "Every model on" not in words(page(run))
    change_results(run, add_models_of_sites)
    text = page(run)
    assert "site-2 23.25 24.25 25.25 24.25" in words(text)
    matrix = text[text.index("Every model on") :].split("</table>")[0]
    assert re.findall(r'n model">([\d.]+)<', matrix) == ["31.50", "32.50", "33.50"]
    change_results(run, lambda results: results["site-2"].pop("site-3"))
    text = words(page(run))
    assert "This run is incomplete. no test figures of site-3 from site-2" in text
    assert "Every model on" not in text


def test_sites_that_trained_alone_have_no_global_model(run):
    config = run / "server" / "simulate_job" / "app_server" / "config" / "config_fed_client.conf"
    shutil.copy(CONFIGS.parents[2] / "mscan_local" / "app" / "config" / config.name, config)
    text = words(page(run))
    assert "Of every site\N{RIGHT SINGLE QUOTATION MARK}s own model" in text
