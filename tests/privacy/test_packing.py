import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import he_context
from fedmr.privacy.bfv import MOST_TERMS, PLAIN_MODULUS, Key
from fedmr.privacy.packing import CIPHERTEXTS, Encrypted, Packing, Sum, decrypt, encrypt, layout_of, pack, unpack
from fedmr.utils.errors import UnsafeError

TWO = Packing(clip=2, resolution=1e-3, max_sites=4, max_steps=256)
FOUR = Packing(clip=0.5, resolution=0.02, max_sites=2, max_steps=16)
PACKINGS = {"one": Packing(), "two": TWO, "four": FOUR}
MODEL = {"body.w": np.zeros((50, 7), np.float32), "body.b": np.zeros((), np.float32), "tail": np.zeros(3, np.float32)}
STEPS = (3, 50, 16, 11)


@pytest.fixture(scope="module")
def key() -> Key:
    return Key(he_context.client())


def model(seed: int, scale: float = 0.3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=v.shape) * scale, np.float32) for name, v in MODEL.items()}


def add_up(updates, packing=TWO, layout=None) -> Sum:
    total = Sum(layout or layout_of(MODEL), packing)
    for update in updates:
        total.add(update)
    return total


def mean(models, steps):
    parts = [{n: v.astype(np.float64) * s for n, v in m.items()} for m, s in zip(models, steps, strict=True)]
    return {name: sum(part[name] for part in parts) / sum(steps) for name in MODEL}


@pytest.mark.parametrize(("name", "values"), [("one", 1), ("two", 2), ("four", 4)])
def test_as_many_weights_share_a_slot_as_fit(name, values):
    packing = PACKINGS[name]
    assert packing.values_per_slot == values
    assert packing.radix**values <= PLAIN_MODULUS < packing.radix ** (values + 1)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@settings(deadline=None)
@given(data=st.data())
def test_the_mean_is_exact_to_the_resolution_for_any_sites_in_any_order(packing, data):
    steps = data.draw(st.lists(st.integers(1, packing.max_steps), min_size=1, max_size=packing.max_sites))
    size, seed = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 2**32 - 1))
    # weights from far within the clip to its edge, where sums are largest
    weights = np.clip(np.random.default_rng(seed).normal(size=(len(steps), size)), -1, 1) * packing.clip
    packed = [pack(row, count, packing) for row, count in zip(weights, steps, strict=True)]
    assert not any(clipped for _, clipped in packed)
    slots = sum(slots for slots, _ in packed)
    assert np.abs(slots).max() <= PLAIN_MODULUS // 2
    result = unpack(slots, sum(steps), size, packing)
    bound = packing.resolution / 2 * len(steps) / sum(steps)
    assert np.abs(result - np.average(weights, axis=0, weights=steps)).max() <= bound * (1 + 1e-9) + 1e-12
    order = data.draw(st.permutations(range(len(steps))))
    assert np.array_equal(sum(packed[n][0] for n in order), slots)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_that_is_allowed_does_not_overflow(packing, sign):
    weights = np.array([sign, -sign, sign]) * packing.clip
    slots, _ = pack(weights, packing.max_steps, packing)
    total = slots * packing.max_sites
    assert np.abs(total).max() <= PLAIN_MODULUS // 2
    assert unpack(total, packing.max_steps * packing.max_sites, 3, packing) == pytest.approx(weights, rel=1e-3)


def test_a_site_too_many_would_overflow(key):
    weights = np.full(2, TWO.clip)
    slots, _ = pack(weights, TWO.max_steps, TWO)
    sites = TWO.max_sites + 1
    assert unpack(slots * sites, TWO.max_steps * sites, 2, TWO) != pytest.approx(weights, abs=0.1)
    updates = [encrypt(model(n), 5, key, TWO)[0] for n in range(sites)]
    with pytest.raises(ValueError, match=r"no room.*4 sites are in, 4 are allowed \(max_sites\)"):
        add_up(updates)


@settings(deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=9))
def test_weights_beyond_the_clip_are_cut_counted_and_spoil_no_neighbour(values):
    weights = np.array(values)
    slots, clipped = pack(weights, 7, TWO)
    assert clipped == (np.abs(weights) > TWO.clip).sum()
    assert unpack(slots, 7, len(values), TWO) == pytest.approx(np.clip(weights, -2, 2), abs=TWO.resolution / 14 * 1.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_not_packed(bad):
    with pytest.raises(UnsafeError, match="NaN or infinite"):
        pack(np.array([0.0, bad]), 1, TWO)


@pytest.mark.parametrize("steps", [0, -1, TWO.max_steps + 1, 2.5, True, None, "9"])
def test_steps_that_there_is_no_room_for_are_not_packed(steps):
    with pytest.raises(UnsafeError, match="max_steps"):
        pack(np.zeros(3), steps, TWO)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip": 0}, "clip is 0"),
        ({"resolution": float("nan")}, "resolution is nan"),
        ({"max_sites": MOST_TERMS + 1}, "max_sites is 94; it must be a whole number above 0 and at most 93"),
        ({"max_steps": 1.5}, "whole number"),
        ({"resolution": 1e-9}, "take a coarser resolution"),
        ({"bits": 3}, "bits is unknown; known are clip"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Packing.from_dict(settings)


@pytest.mark.parametrize("packing", [Packing(), TWO], ids=["one", "two"])
def test_the_decrypted_sum_of_encrypted_models_is_their_mean(key, packing):
    models = [model(n) for n in range(4)]
    updates = [encrypt(m, s, key, packing)[0] for m, s in zip(models, STEPS, strict=True)]
    total = add_up(updates, packing).result()
    assert total.steps == sum(STEPS)
    result, expected = decrypt(total, key), mean(models, STEPS)
    for name, value in result.items():
        assert value.shape == MODEL[name].shape
        assert value.dtype == np.float32
        assert value == pytest.approx(expected[name], abs=packing.resolution / 2 * 4 / sum(STEPS) + 1e-7)
    again = decrypt(add_up(updates[::-1], packing).result(), key)
    assert all(np.array_equal(again[name], value) for name, value in result.items())


def test_a_message_survives_its_parts(key):
    update, _ = encrypt(model(0), 9, key, TWO)
    assert Encrypted.from_parts({CIPHERTEXTS: update.ciphertexts}, update.header()) == update


@pytest.mark.parametrize(
    ("data", "header", "message"),
    [
        (model(0), {}, "plaintext or something else"),
        ({CIPHERTEXTS: b"x"}, {}, "plaintext or something else"),
        (None, {}, "plaintext or something else"),
        ({CIPHERTEXTS: []}, None, "header is damaged"),
        ({CIPHERTEXTS: []}, {"layout": {}}, "header is damaged .KeyError: 'packing'"),
        ({CIPHERTEXTS: []}, {"layout": [], "packing": {}, "key": "", "steps": 1}, "header is damaged"),
        ({CIPHERTEXTS: []}, {"layout": {}, "packing": {"clip": "x"}, "key": "", "steps": 1}, "clip is 'x'"),
        ({CIPHERTEXTS: []}, {"layout": {}, "packing": {}, "key": "", "steps": 1.5}, "no whole number"),
    ],
)
def test_what_is_no_packed_message_is_refused(data, header, message):
    with pytest.raises(ValueError, match=message):
        Encrypted.from_parts(data, header)


def without(name):
    return {n: v for n, v in model(0).items() if n != name}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda key: encrypt(without("tail"), 3, key, TWO)[0], "'tail' has the shape none, not"),
        (lambda key: encrypt(model(0) | {"extra": np.zeros(2)}, 3, key, TWO)[0], "'extra' has the shape .2., not none"),
        (lambda key: encrypt(model(0) | {"tail": np.zeros(4)}, 3, key, TWO)[0], "'tail' has the shape .4., not .3."),
        (lambda key: encrypt(dict(reversed(model(0).items())), 3, key, TWO)[0], "another order"),
        (lambda key: encrypt(model(0), 3, key, FOUR)[0], "it was packed by"),
        (lambda key: encrypt(model(0), 3, Key(he_context.client(1)), TWO)[0], "encrypted with the key"),
        (lambda key: dataclasses.replace(encrypt(model(0), 3, key, TWO)[0], steps=257), "257 steps, 256 are allowed"),
        (lambda key: dataclasses.replace(encrypt(model(0), 3, key, TWO)[0], ciphertexts=[]), "0 ciphertexts for 355"),
    ],
)
def test_what_does_not_belong_to_the_sum_is_refused_and_the_sum_stays(key, changed, message):
    good, _ = encrypt(model(1), 3, key, TWO)
    total = add_up([good])
    with pytest.raises(ValueError, match=message):
        total.add(changed(key))
    result = decrypt(total.result(), key)
    assert all(result[name] == pytest.approx(value, abs=TWO.resolution) for name, value in model(1).items())


@pytest.mark.parametrize(("true", "stated"), [(256, 36), (36, 256), (3, 4), (4, 3)])
def test_steps_that_are_not_those_of_the_ciphertexts_are_found_out(key, true, stated):
    honest = [encrypt(model(n), 36, key, TWO)[0] for n in range(3)]
    liar = dataclasses.replace(encrypt(model(0), true, key, TWO)[0], steps=stated)
    with pytest.raises(ValueError, match="steps that it states"):
        decrypt(add_up([*honest, liar]).result(), key)
    with pytest.raises(ValueError, match="steps that it states"):  # by the server
        decrypt(dataclasses.replace(add_up(honest).result(), steps=stated), key)


def test_a_mean_above_what_sites_can_send_is_found_out(key):
    """A site that packs weights by hand, beyond the clip."""
    vector = np.full(4, 1.4 * TWO.clip)
    vector[-1] = TWO.clip
    integers = np.rint(vector * 36 / TWO.resolution).astype(np.int64).reshape(-1, 2)
    slots = integers @ np.array([1, TWO.radix])
    forged = Encrypted(key.encrypt(slots), {"w": [3]}, TWO, key.name, 36)
    with pytest.raises(ValueError, match="sites clip to"):
        decrypt(forged, key)


def test_another_key_does_not_decrypt_even_if_the_header_says_it_does(key):
    update, other = encrypt(model(0), 3, key, TWO)[0], Key(he_context.client(1))
    with pytest.raises(ValueError, match="take that of its run"):
        decrypt(update, other)
    with pytest.raises(ValueError, match="another key"):
        decrypt(dataclasses.replace(update, key=other.name), other)


def test_a_damaged_model_is_not_decrypted(key):
    update, _ = encrypt(model(0), 3, key, TWO)
    with pytest.raises(ValueError, match="damaged"):
        decrypt(dataclasses.replace(update, ciphertexts=update.ciphertexts * 2), key)
