"""Weights out of an encrypted global model, as the server of an HE job saves it. Works on a site, which has the key."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedmr.checkpoints.stored import META, encryption_of
from fedmr.privacy import packing
from fedmr.privacy.bfv import Key, check_secret
from fedmr.privacy.packing import ALGORITHM, HEADER, Encrypted, Layout
from fedmr.utils.extras import load

# A network's weights are far below; with a wrong key CKKS gives numbers far above, and no error.
_LARGEST = 1e4


def decrypt(content: Mapping[str, Any], context: Path, layout: Layout) -> dict[str, Any]:
    """Arrays by variable.

    Args:
        content: of an encrypted model file.
        context: a site's startup/client_context.tenseal.
        layout: shapes of the network's variables, which FLARE's own HE does not keep.

    Raises:
        OSError: no context there.
        ValueError: a context without the secret key or of another provisioning, or a damaged model.
    """
    secret = context.read_bytes()
    if encryption_of(content) == ALGORITHM:
        return dict(packing.decrypt(Encrypted.from_parts(content["model"], content[META].get(HEADER)), Key(secret)))
    if encryption_of(content) == "CKKS":
        return _decrypt_ckks(content["model"], secret, layout)
    raise ValueError(f"it is encrypted by {encryption_of(content)!r}, which this FedMR does not know")


def _decrypt_ckks(model: Mapping[str, Any], secret: bytes, layout: Layout) -> dict[str, Any]:
    """FLARE's own: one ciphertext per variable, without its shape; a variable may also be left in plaintext."""
    tenseal = load("tenseal")

    check_secret(secret)
    context, weights = tenseal.context_from(secret), {}
    for name, value in model.items():
        if not isinstance(value, bytes):
            weights[name] = value
            continue
        try:
            vector = np.array(tenseal.ckks_vector_from(context, value).decrypt(), dtype=np.float32)
        except (ValueError, RuntimeError) as error:  # what TenSEAL raises for other parameters
            raise ValueError(f"{name!r} does not decrypt ({error}); use a context of the same provisioning") from None
        if not (np.abs(vector) < _LARGEST).all():
            raise ValueError(f"{name!r} decrypts to no weights; use a context of the same provisioning")
        if name not in layout or vector.size != math.prod(layout[name]):
            raise ValueError(f"{name!r} is of another network")
        weights[name] = vector.reshape(tuple(layout[name]))
    return weights
