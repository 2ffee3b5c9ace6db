"""Settings as they are typed after `--set`."""

import pytest

from fedmr.tasks.overrides import merge, parse_overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1e-3", 0.001),
        ("a=1", 1),
        ("a=true", True),
        ("a=null", None),
        ("a=rmsprop", "rmsprop"),
        ("a=my.module.Net", "my.module.Net"),
        ('a="1"', "1"),
        ("a=[1, 2]", [1, 2]),
        ("a={l1: 1.0, sgp: 0.5}", {"l1": 1.0, "sgp": 0.5}),
        ('a={"package.Loss": 1}', {"package.Loss": 1}),
        ("a=x=y", "x=y"),
        ("a=", ""),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    parsed = parse_overrides([text])
    assert parsed == {"a": value}
    assert type(parsed["a"]) is type(value)


def test_dots_are_levels_and_settings_of_one_level_meet():
    texts = ["task.loss.l1=2", "task.loss.sgp=0", "num_rounds=3"]
    assert parse_overrides(texts) == {"task": {"loss": {"l1": 2, "sgp": 0}}, "num_rounds": 3}


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["task.learning_rate"], "write NAME=VALUE"),
        (["=3"], "write NAME=VALUE"),
        (["task..x=3"], "write NAME=VALUE"),
        (["a=1", "a=2"], "set twice"),
        (["a=1", "a.b=2"], "goes into 'a'"),
        (["a.b=2", "a=1"], "set twice"),
        (["a={b: "], "cannot be read"),
        (["a={b: ${HOME}}"], "environment"),
        (["a=[include required(file(x))]"], "includes other files"),
    ],
)
def test_what_is_no_setting_is_named(texts, reason):
    with pytest.raises(ValueError, match=reason):
        parse_overrides(texts)


def test_a_part_changes_a_part_and_another_name_the_whole():
    task = {"network": {"name": "mscan", "channels": 32, "blocks": 4}, "seed": 0}
    assert merge(task, {"network": {"channels": 8}})["network"] == {"name": "mscan", "channels": 8, "blocks": 4}
    assert merge(task, {"network": {"name": "unet", "pools": 2}})["network"] == {"name": "unet", "pools": 2}
    assert task["network"]["channels"] == 32
