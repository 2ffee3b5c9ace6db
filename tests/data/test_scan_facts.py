"""Facts of a scan: right on images whose noise and size are known, and compared with a card's ranges."""

import numpy as np
import pytest

from fedmr.data.scan_facts import outside, ranges, scan_facts

FACTS = {"voxel": 1.0, "field_of_view": 200.0, "thickness": 4.0, "noise": 0.02}


def head(noise: float, seed: int = 0) -> np.ndarray:
    """Smooth slices (6, 96, 80), about [0, 1], with white noise."""
    y, x = np.mgrid[-1:1:96j, -1:1:80j]
    smooth = np.clip(1.2 - y**2 - x**2, 0, 1) * (0.8 + 0.1 * np.sin(6 * x))
    return np.stack([smooth] * 6).astype(np.float32) + np.random.default_rng(seed).normal(0, noise, (6, 96, 80)).astype(
        np.float32
    )


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("intensity", [1.0, 250.0])
def test_the_noise_of_a_smooth_image_is_found_to_a_tenth(noise, intensity):
    found = scan_facts(intensity * head(noise), (4, 1, 1), intensity)["noise"]
    assert found == pytest.approx(noise, rel=0.1)


def test_an_image_without_noise_has_nearly_none():
    assert scan_facts(head(0.0), (4, 1, 1), 1.0)["noise"] < 1e-3


def test_an_empty_image_has_no_noise():
    assert scan_facts(np.zeros((2, 32, 32), np.float32), (4, 1, 1), 1.0)["noise"] == 0


def test_sizes_are_in_millimetres():
    facts = scan_facts(head(0.01), (4, 0.5, 2.0), 1.0)
    assert facts["voxel"] == pytest.approx(1.0)
    assert facts["field_of_view"] == pytest.approx((48 * 160) ** 0.5)
    assert facts["thickness"] == 4


@pytest.mark.parametrize("name", FACTS)
@pytest.mark.parametrize(("factor", "said"), [(1.0, False), (1.2, False), (1.4, True)])
def test_what_is_beyond_the_range_by_more_than_a_quarter_is_said(name, factor, said):
    known = ranges([FACTS, {key: value / 2 for key, value in FACTS.items()}])
    messages = outside(FACTS | {name: FACTS[name] * factor}, known)
    assert len(messages) == said


def test_less_noise_is_no_reason_to_warn_and_smaller_voxels_are():
    known = ranges([FACTS])
    assert not outside(FACTS | {"noise": 0.0}, known)
    assert "voxel size" in outside(FACTS | {"voxel": 0.5}, known)[0]


def test_a_card_without_ranges_says_nothing():
    assert not outside(FACTS, {})
