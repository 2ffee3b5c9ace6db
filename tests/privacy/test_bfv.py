import math

import numpy as np
import pytest

import he_context
from fedmr.privacy import bfv
from fedmr.privacy.bfv import COEFFICIENT_BITS, DEGREE, MOST_TERMS, PLAIN_MODULUS, Key, Sum

# homomorphicencryption.org, Homomorphic Encryption Standard (2018), table 1: the most bits of the coefficient modulus
# for 128-bit classical security with ternary secrets, by the degree
STANDARD = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
HALF = PLAIN_MODULUS // 2
WIDTHS = (1, DEGREE, DEGREE + 1)


@pytest.fixture(scope="module")
def key() -> Key:
    return Key(he_context.client())


def random_slots(seed: int, size: int, bound: int = HALF) -> np.ndarray:
    return np.random.default_rng(seed).integers(-bound, bound, size=size, endpoint=True)


def fill(slots: np.ndarray) -> np.ndarray:
    return np.pad(slots, (0, -len(slots) % DEGREE))


def test_the_parameters_are_secure_by_the_standards_table():
    assert STANDARD[DEGREE] >= COEFFICIENT_BITS


def test_the_plain_modulus_is_a_prime_that_has_slots():
    assert PLAIN_MODULUS % (2 * DEGREE) == 1
    assert (PLAIN_MODULUS % np.arange(2, math.isqrt(PLAIN_MODULUS) + 1)).all()


@pytest.mark.parametrize("size", WIDTHS)
def test_decryption_inverts_encryption(key, size):
    slots = random_slots(size, size)
    assert np.array_equal(key.decrypt(key.encrypt(slots)), fill(slots))


def test_every_site_of_a_provisioning_has_the_same_key_and_no_ciphertext_comes_twice(key):
    other, slots = Key(he_context.client()), random_slots(0, 5)
    assert other.name == key.name != Key(he_context.client(1)).name
    assert np.array_equal(other.decrypt(key.encrypt(slots)), fill(slots))
    assert key.encrypt(slots) != key.encrypt(slots)


def test_the_sum_of_as_many_terms_as_are_allowed_is_exact(key):
    terms = [random_slots(n, 3, HALF // MOST_TERMS) for n in range(MOST_TERMS)]
    total = Sum()
    for term in terms:
        total.add(key.encrypt(term))
    assert np.array_equal(key.decrypt(total.to_bytes()), fill(sum(terms)))


def test_a_fresh_ciphertext_takes_8_bytes_a_slot_and_a_sum_16(key):
    slots, total = random_slots(0, 4 * DEGREE), Sum()
    fresh = key.encrypt(slots)
    total.add(fresh)
    assert sum(map(len, fresh)) < 8 * len(slots)
    assert sum(map(len, total.to_bytes())) < 16 * len(slots)


def test_the_servers_context_makes_no_key():
    with pytest.raises(ValueError, match="holds no secret key"):
        Key(he_context.server())


@pytest.mark.parametrize("content", [b"", b"nonsense", he_context.client()[:1000]])
def test_what_is_no_context_makes_no_key(content):
    with pytest.raises(ValueError, match="no TenSEAL context"):
        Key(content)


def test_another_key_does_not_decrypt(key):
    with pytest.raises(ValueError, match="another key"):
        Key(he_context.client(1)).decrypt(key.encrypt(random_slots(0, 5)))


def transparent() -> bytes:
    """SEAL's format without encryption: both polynomials are zero."""
    first = bfv._seal().context.first_parms_id()
    empty = bfv._seal().api.Ciphertext(bfv._seal().context, first)
    empty.resize(bfv._seal().context, first, 2)
    return bfv._to_bytes([empty])[0]


@pytest.mark.parametrize("wrong", [b"", b"nonsense", b"\0" * 70_000, 3, "short", "transparent"])
def test_what_is_no_ciphertext_is_not_added_and_the_sum_stays_as_it_was(key, wrong):
    slots, total = random_slots(0, DEGREE + 1), Sum()
    total.add(key.encrypt(slots))
    good = key.encrypt(slots)[0]
    wrong = {"short": good[:-100], "transparent": transparent()}.get(wrong, wrong)
    with pytest.raises(ValueError, match=r"no ciphertext|hides nothing"):
        total.add([good, wrong])
    with pytest.raises(ValueError, match="1 ciphertexts, the others have 2"):
        total.add([good])
    assert np.array_equal(key.decrypt(total.to_bytes()), fill(slots))
