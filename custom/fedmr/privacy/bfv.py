"""Integers that can be added while they are encrypted: BFV with parameters for addition alone.

Fan and Vercauteren, "Somewhat practical fully homomorphic encryption", IACR 2012/144. Without multiplication one short
coefficient modulus is enough, nobody needs public or evaluation keys, and sums are exact. Sites encrypt with the
secret key, so a fresh ciphertext is one polynomial and a seed, half of what comes back. SEAL does the cryptography, by
the binding that TenSEAL brings.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmr.utils.extras import load

DEGREE = 4096  # of the polynomials, and slots of a ciphertext
# For 128-bit security 109 are allowed at this degree (homomorphicencryption.org, standard of 2018, table 1). SEAL sends
# eight bytes for a coefficient; with 56 bits one of them is always 0 and compresses away.
COEFFICIENT_BITS = 56
PLAIN_MODULUS = 17_592_186_028_033  # the largest 44-bit prime that is 1 modulo 2 * DEGREE, so that slots exist
# A fresh ciphertext is off by at most 21 (SEAL's centred binomial noise) and 1/2 of rounding; a sum decrypts as long as
# all that together is below q / 2t.
MOST_TERMS = 2**COEFFICIENT_BITS // (2 * PLAIN_MODULUS) // 22
_LONGEST = DEGREE * 16 + 1024  # bytes of a ciphertext of two polynomials, with SEAL's header

Slots = NDArray[np.int64]


class Key:
    """The secret key of all sites, made from the client context that FLARE provisions. No server has one.

    FLARE's own CKKS parameters would double the ciphertexts. Its file holds a secret key, the same at all sites, from
    which Blake2 makes the one for the parameters here.

    Args:
        context: content of a site's startup/client_context.tenseal.

    Attributes:
        name: for everybody to see which key it is; says nothing else of it.

    Raises:
        ValueError: it holds no secret key.
    """

    def __init__(self, context: bytes) -> None:
        check_secret(context)
        seed = hashlib.blake2b(context, person=b"fedmr bfv key").digest()
        seal = _seal()
        secret = seal.api.KeyGenerator(_make_context(np.frombuffer(seed, dtype=np.uint64).tolist())).secret_key()
        self._encryptor = seal.api.Encryptor(seal.context, secret)
        self._decryptor = seal.api.Decryptor(seal.context, secret)
        self.name = hashlib.blake2b(seed, digest_size=8, person=b"fedmr bfv name").hexdigest()

    def encrypt(self, slots: Slots) -> list[bytes]:
        """Ciphertexts of `DEGREE` slots each, 7.6 bytes a slot.

        Args:
            slots: (N,), from -PLAIN_MODULUS / 2 to PLAIN_MODULUS / 2.
        """
        seal, ciphertexts = _seal(), []
        for start in range(0, len(slots), DEGREE):
            plain = seal.api.Plaintext()
            seal.encoder.encode(slots[start : start + DEGREE].tolist(), plain)
            ciphertexts.append(self._encryptor.encrypt_symmetric(plain))
        return _to_bytes(ciphertexts)

    def decrypt(self, ciphertexts: Sequence[bytes]) -> Slots:
        """Slots, with zeros that fill up the last ciphertext.

        Raises:
            ValueError: something is no ciphertext, or was made with another key.
        """
        seal, loaded = _seal(), _from_bytes(ciphertexts)
        # a wrong key leaves no ciphertext a budget; to look at one is enough, and takes as long as to decrypt it
        if loaded and not self._decryptor.invariant_noise_budget(loaded[0]):
            raise ValueError("it was encrypted with another key; use a context of the same provisioning")
        slots = np.empty((len(loaded), DEGREE), dtype=np.int64)
        for row, ciphertext in zip(slots, loaded, strict=True):
            plain = seal.api.Plaintext()
            self._decryptor.decrypt(ciphertext, plain)
            row[:] = seal.encoder.decode_int64(plain)
        return slots.reshape(-1)


class Sum:
    """Sum of ciphertexts, which the server computes without a key."""

    def __init__(self) -> None:
        self._ciphertexts: list[Any] = []

    def add(self, ciphertexts: Sequence[bytes]) -> None:
        """Add one term of several ciphertexts, all of them or none.

        Raises:
            ValueError: another number of ciphertexts than before; something is no ciphertext, or hides nothing.
        """
        loaded = _from_bytes(ciphertexts)
        if self._ciphertexts and len(loaded) != len(self._ciphertexts):
            raise ValueError(f"it has {len(loaded)} ciphertexts, the others have {len(self._ciphertexts)}")
        for mine, other in zip(self._ciphertexts, loaded, strict=False):
            _seal().evaluator.add_inplace(mine, other)
        self._ciphertexts = self._ciphertexts or loaded

    def to_bytes(self) -> list[bytes]:
        """The sum, 15.1 bytes a slot."""
        return _to_bytes(self._ciphertexts)


def check_secret(context: bytes) -> None:
    """Check that a TenSEAL context holds a secret key.

    Raises:
        ValueError: it does not, or is none.
    """
    tenseal = load("tenseal")

    try:
        secret = tenseal.context_from(context).has_secret_key()
    except (ValueError, RuntimeError):  # what TenSEAL raises for bytes that are none of its own
        raise ValueError("it is no TenSEAL context; give a site's startup/client_context.tenseal") from None
    if not secret:
        raise ValueError("it holds no secret key, as a server's; give a site's startup/client_context.tenseal")


@dataclass(frozen=True)
class _Seal:
    api: Any
    context: Any
    encoder: Any
    evaluator: Any


@cache
def _seal() -> _Seal:
    sealapi = load("tenseal.sealapi")

    context = _make_context()
    return _Seal(sealapi, context, sealapi.BatchEncoder(context), sealapi.Evaluator(context))


def _make_context(seed: Sequence[int] | None = None) -> Any:
    """SEAL's context; SEAL checks the parameters against the standard's table. The seed, 8 integers, is for a key."""
    sealapi = load("tenseal.sealapi")

    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.Create(DEGREE, [COEFFICIENT_BITS]))
    parameters.set_plain_modulus(PLAIN_MODULUS)
    if seed is not None:
        parameters.set_random_generator(sealapi.Blake2xbPRNGFactory(seed))
    context = sealapi.SEALContext(parameters, False, sealapi.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise RuntimeError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
    return context


@contextmanager
def _file_in_memory() -> Iterator[Path]:
    """The binding reads and writes files alone; on a disk that takes twice as long as the work."""
    number = os.memfd_create("ciphertext")
    try:
        yield Path(f"/proc/self/fd/{number}")
    finally:
        os.close(number)


def _to_bytes(ciphertexts: Sequence[Any]) -> list[bytes]:
    contents = []
    with _file_in_memory() as file:
        for ciphertext in ciphertexts:
            ciphertext.save(str(file))
            contents.append(file.read_bytes())
    return contents


def _from_bytes(contents: Sequence[bytes]) -> list[Any]:
    """Ciphertexts of two polynomials that SEAL has checked."""
    ciphertexts = []
    with _file_in_memory() as file:
        for content in contents:
            if not isinstance(content, bytes) or len(content) > _LONGEST:
                raise ValueError("it holds something that is no ciphertext")
            file.write_bytes(content)
            ciphertext = _seal().api.Ciphertext()
            try:
                ciphertext.load(_seal().context, str(file))
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"it holds something that is no ciphertext ({error})") from None
            if ciphertext.size() != 2 or ciphertext.is_ntt_form() or ciphertext.is_transparent():
                raise ValueError("it holds a ciphertext of another form, or one that hides nothing")
            ciphertexts.append(ciphertext)
    return ciphertexts
