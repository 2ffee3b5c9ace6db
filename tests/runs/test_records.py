"""Records of a run as anybody might send them: what is wrong is named, and nothing else is lost."""

import json
import math
from copy import deepcopy

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fedmr.data.statistics import INTENSITY, PER_PATIENT, PER_VOLUME
from fedmr.metrics import METRICS
from fedmr.runs.checks import MAX_BYTES, Refused, RunError, is_site_name, read_json, read_json_lines
from fedmr.runs.figures import summarise, weighted_mean
from fedmr.runs.records import FINAL_MODEL, NO_VOLUMES, REJECTIONS, read_rejections, read_results, read_rounds
from fedmr.runs.statistics import read_statistics

SITES = ("site-1", "site-2", "site-3")
ESCAPES = "\x1b]0;owned\x07\x1b[2J\r\nRound 99 finished.\u202e[bold]"
NAMES = st.sampled_from(
    [
        *("round", "sites", "name", "weight", "metrics", "value", "psnr", "ssim", "nmse", "n_volumes", "model"),
        *("zero_filled", "interpolated", "personal", FINAL_MODEL, *SITES, "reason", "norm", "count", "mean"),
        *(ESCAPES, ""),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, 0, -1])
    | st.floats()
    | st.sampled_from(["1e6", "NaN", ESCAPES, "x" * 10**5, "\ud800", *SITES])
    | st.text(max_size=20)
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=6), max_leaves=25
)


def metrics(psnr):
    return {"psnr": psnr, "ssim": psnr / 40, "nmse": 1 / psnr, "psnr_foreground": psnr - 2}


def rounds():
    def of_site(number, k):
        values = [{"name": name, "value": value} for name, value in metrics(30.0 + k + number).items()]
        return {"name": SITES[k], "weight": 10 * (k + 1), "metrics": values}

    return [{"round": n, "sites": [of_site(n, k) for k in range(3)]} for n in range(3)]


def results():
    methods = {"zero_filled": metrics(30.0), "interpolated": metrics(29.0), "model": metrics(32.0)}
    return {site: {FINAL_MODEL: {"n_volumes": 2} | deepcopy(methods)} for site in SITES}


def raw_statistics():
    raw = {}
    for feature in (INTENSITY, *PER_VOLUME, PER_PATIENT):
        names = (*SITES, "Global")
        raw[feature] = {name: {site: {"all": 6} for site in names} for name in ("count", "mean", "stddev")}
        raw[feature]["histogram"] = {site: {"all": [[0, 500, 4], [500, 1250, 7]]} for site in names}
    return raw


def paths_in(content, path=()):
    """Paths to all nodes of a JSON value."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from paths_in(value, (*path, key))


def put(content, path, value):
    """A copy with one node replaced."""
    if not path:
        return value
    content = deepcopy(content)
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


def spoiled(make):
    """A valid content with one node replaced by anything, and the path to it."""
    paths = st.sampled_from(sorted(paths_in(make()), key=str))
    return st.tuples(paths, JSON).map(lambda pair: (pair[0], put(make(), *pair)))


def lines(records):
    return list(enumerate(records, start=1))


def check_rounds(found, refused):
    for record in found:
        assert 0 <= record["round"] <= 10**6
        assert record["sites"]
        assert math.isnan(record["psnr"]) or -300 <= record["psnr"] <= 200
        for site, row in record["sites"].items():
            assert is_site_name(site)
            assert row["steps"] > 0
            check_metrics({name: value for name, value in row.items() if name not in ("steps", "n_volumes")})
    check_sentences(refused)


def check_metrics(values):
    for name, value in values.items():
        low, high = METRICS[name].bounds
        assert low <= value <= high
        assert not isinstance(value, bool)


def check_sentences(refused):
    for sentence in refused.lines():
        assert sentence.isprintable()
        assert len(sentence) < 600


@settings(deadline=None)
@given(st.lists(JSON, max_size=4), st.sampled_from([SITES, ()]))
@example([{"round": 0, "sites": [{"name": "site-1", "weight": 10, "metrics": []}]}], SITES)
@example([{"round": 0, "sites": []}], SITES)
@example([{"round": 0, "sites": [{"name": "site-1", "metrics": [{"name": "psnr", "value": 30.0}]}]}], SITES)
def test_any_rounds_give_rounds_in_range_or_none(records, sites):
    refused = Refused()
    check_rounds(read_rounds(lines(records), sites, refused), refused)


@settings(deadline=None, max_examples=300)
@example(((0, "sites"), put(rounds(), (0, "sites"), [])))
@given(spoiled(rounds))
def test_a_wrong_round_record_is_named_and_costs_no_other_site_its_own(pair):
    path, records = pair
    assume(records != [])  # a log without a record has no wrong one
    refused = Refused()
    found = read_rounds(lines(records) if isinstance(records, list) else [(1, records)], SITES, refused)
    check_rounds(found, refused)
    good = read_rounds(lines(rounds()), SITES, Refused())
    if len(path) > 3 and path[3] != "name":  # within one site's record of one round
        for expected, record in zip(good, found, strict=True):
            for site in set(SITES) - {SITES[path[2]]}:
                assert record["sites"][site] == expected["sites"][site]
    if found != good:
        complete = all(set(record["sites"]) == set(SITES) for record in found) and len(found) == 3
        assert complete or refused.lines(), "something is missing and nothing says so"


@settings(deadline=None, max_examples=300)
@given(spoiled(results), st.sampled_from([SITES, ()]))
def test_wrong_test_figures_are_named_and_cost_no_other_site_its_own(pair, sites):
    path, raw = pair
    refused = Refused()
    found = read_results(raw, sites, refused)
    check_sentences(refused)
    for site, models in found.items():
        assert is_site_name(site)
        for figures in models.values():
            if figures != NO_VOLUMES:
                assert 1 <= figures["n_volumes"] <= 10**6
                for method in figures.keys() - {"n_volumes"}:
                    check_metrics(figures[method])
    good = read_results(results(), sites, Refused())
    if path:
        assert {s: m for s, m in found.items() if s in SITES and s != path[0]} == {
            s: m for s, m in good.items() if s != path[0]
        }
    whole = {site: models[FINAL_MODEL] for site, models in found.items() if "model" in models.get(FINAL_MODEL, {})}
    if whole:
        summarise(whole)
    if set(whole) != set(SITES) and not any(NO_VOLUMES in models.values() for models in found.values()):
        assert refused.lines() or any(value == {} for value in _nodes(raw)), "a site is missing and nothing says so"


def _nodes(content):
    yield content
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _nodes(value)


@settings(deadline=None)
@given(st.lists(JSON, max_size=4))
def test_any_record_of_the_guard_is_shown_on_one_line_or_refused(tmp_path_factory, records):
    folder = tmp_path_factory.mktemp("guard")
    texts = [json.dumps(record) for record in records]
    (folder / REJECTIONS).write_text("\n".join([*texts, "{", "[" * 10**5]))
    refused = Refused()
    for row in read_rejections(folder, refused):
        assert row["site"].isprintable()
        assert row["reason"].isprintable()
        assert row["norm"] is None or math.isfinite(row["norm"])
    assert refused.lines()
    check_sentences(refused)


@settings(deadline=None, max_examples=200)
@given(spoiled(raw_statistics))
def test_wrong_statistics_of_a_site_are_named_or_the_run_is_incomplete(pair):
    _, raw = pair
    refused = Refused()
    try:
        found = read_statistics(raw, SITES, refused)
    except RunError:
        return
    for name, data_set in found.items():
        assert name.isprintable()
        for row in [*data_set["sites"].values(), data_set["all sites"]]:
            if row:
                assert all(isinstance(count, int) and count >= 0 for count in row["histogram"])
                assert 0 <= row.get("shift", 0) <= 1 + 1e-9
    check_sentences(refused)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"psnr": "34.5"}, "psnr is '34.5'; it must be a number from -300 to 200 dB"),
        ({"psnr": 1e6}, "psnr is 1000000.0"),
        ({"psnr": math.nan}, "psnr is nan"),
        ({"psnr": -math.inf}, "psnr is -inf"),
        ({"psnr": True}, "psnr is True"),
        ({"ssim": 1.5}, "ssim is 1.5; it must be a number from -1 to 1"),
        ({"nmse": -1}, "nmse is -1"),
        ({"psnr": 10**5000}, "that is too long to show"),
        ({"psnr": [34.5]}, r"psnr is [34.5]"),
        ({"psnr": ESCAPES}, "psnr is "),
    ],
)
def test_a_figure_that_is_none_is_named_with_run_site_and_value(change, said):
    raw = results()
    raw["site-2"][FINAL_MODEL]["model"] |= change
    refused = Refused()
    assert set(read_results(raw, SITES, refused)["site-2"]) == set()
    (sentence,) = refused.lines()
    assert "site-2" in sentence
    assert f"model.{said}" in sentence or said in sentence
    records = rounds()
    records[1]["sites"][1]["metrics"] = [{"name": n, "value": v} for n, v in (metrics(30.0) | change).items()]
    found, refused = read_rounds(lines(records), SITES, refused := Refused()), refused
    assert set(found[1]["sites"]) == {"site-1", "site-3"}
    assert refused.lines()[0].startswith("round 1, site-2: ")


def test_an_extra_metric_is_dropped_and_said():
    raw = results()
    raw["site-1"][FINAL_MODEL]["model"]["mood\x1b[2J"] = 1.0
    raw["site-1"][FINAL_MODEL]["horoscope"] = {"psnr": 99.0}
    refused = Refused()
    assert read_results(raw, SITES, refused) == read_results(results(), SITES, Refused())
    assert "site-1: figures that are not known were dropped: horoscope, mood\\x1b[2J" in refused.lines()[0]


def test_a_site_that_speaks_for_another_is_used_for_neither():
    records = rounds()
    records[1]["sites"][2]["name"] = "site-1"
    refused = Refused()
    found = read_rounds(lines(records), SITES, refused)
    assert set(found[1]["sites"]) == {"site-2"}
    assert "stands there twice" in refused.lines()[0]


def test_a_name_that_flare_gives_to_no_site_is_refused():
    names = ["site-1\n", "", ".", "..", "a/b", "a b", "site.1", "[red]x", "\u0430site", "x" * 300, ESCAPES, 5, None]
    assert not any(map(is_site_name, names))
    assert all(map(is_site_name, [*SITES, "hospital_a", "A-1", "-", "x" * 255]))


def test_the_mean_is_weighted_by_steps_and_leaves_out_who_has_no_figure():
    sites = [{"steps": 10, "psnr": 30.0}, {"steps": 30, "psnr": 34.0}, {"steps": 500, "n_volumes": 0}]
    assert weighted_mean(sites, "psnr") == 33.0
    assert weighted_mean(sites, "ssim") is None


def test_a_file_that_is_no_json_or_too_large_is_an_error_that_names_it(tmp_path):
    for content in ("{", "[" * 10**6, "1" * 10**4, b"\xff\xfe".decode("latin-1")):
        (tmp_path / "f.json").write_text(content)
        with pytest.raises(RunError, match=r"f\.json is not JSON"):
            read_json(tmp_path / "f.json")
    with (tmp_path / "f.json").open("wb") as handle:
        handle.truncate(MAX_BYTES + 1)
    with pytest.raises(RunError, match=r"f\.json has .* bytes"):
        read_json(tmp_path / "f.json")


def test_a_line_that_was_cut_short_is_named_by_its_number(tmp_path):
    (tmp_path / "f.jsonl").write_text('{"a": 1}\n{"a": ')
    refused = Refused()
    assert list(read_json_lines(tmp_path / "f.jsonl", refused)) == [(1, {"a": 1})]
    assert refused.lines()[0].startswith("f.jsonl, line 2: ")


def test_a_thousand_wrong_records_are_counted_not_listed():
    records = [{"round": -n, "sites": []} for n in range(1, 1001)]
    refused = Refused()
    read_rounds(lines(records), SITES, refused)
    assert len(refused.lines()) == 21
    assert refused.lines()[-1] == "980 more like these"
