"""Weighted means of encrypted models, by addition alone: a whole model is one vector in few ciphertexts. No FLARE here.

A site multiplies its weights by its steps, rounds to integers and puts as many into a slot as fit. The server adds
ciphertexts and nothing else. Who holds the key divides the sum by the steps of all, which travel in plaintext. Sums are
exact, so that the only error is that of rounding to integers.

After the weights comes one value more, the same at every site: its mean is known, so it tells whether the steps that
were stated are those that the ciphertexts hold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedmr.privacy import bfv
from fedmr.privacy.bfv import DEGREE, MOST_TERMS, PLAIN_MODULUS, Key, Slots
from fedmr.privacy.mechanism import Vector
from fedmr.utils.errors import UnsafeError
from fedmr.utils.validation import Positive, settings

ALGORITHM = "BFV"
CIPHERTEXTS, HEADER = "ciphertexts", "fedmr_packed"  # keys in messages and model files

Layout = Mapping[str, Sequence[int]]  # shapes by variable, in the order of the vector


_Sites = Annotated[int, Field(gt=0, le=MOST_TERMS, description=f"a whole number above 0 and at most {MOST_TERMS}")]
_Steps = Annotated[int, Field(gt=0, le=2**32, description="a whole number above 0 and at most 2^32")]


@settings("packing:", kw_only=False)
class Packing:
    """How weights become integers. All sites and the server must use the same.

    The mean is off by at most `resolution` / 2, divided by the mean steps of a site.

    Attributes:
        clip: largest weight; larger ones are cut to it, before they spoil their neighbours in a slot.
        resolution: of a weight times the steps.
        max_sites: updates that may be added.
        max_steps: steps that a site may do in a round.
    """

    clip: Positive = 8.0
    resolution: Positive = 2e-6
    max_sites: _Sites = 32
    max_steps: _Steps = 50_000

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.radix > PLAIN_MODULUS:
            raise ValueError(
                f"packing: a sum over {self.max_sites} sites can need {math.log2(self.radix):.1f} bits, and a slot has "
                f"{math.log2(PLAIN_MODULUS):.1f}; take a coarser resolution, or a lower clip, max_sites or max_steps"
            )
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Packing":
        """Build from a config.

        Raises:
            ValueError: naming the offending entry.
        """
        return cls(**values)

    @property
    def limit(self) -> int:
        """Largest integer that a sum can be."""
        return self.max_sites * round(self.clip * self.max_steps / self.resolution)

    @property
    def radix(self) -> int:
        """Number of values that a sum can take."""
        return 2 * self.limit + 1

    @property
    def values_per_slot(self) -> int:
        """Weights that share a slot."""
        return next(n for n in range(44, 0, -1) if self.radix**n <= PLAIN_MODULUS)

    def ciphertexts(self, values: int) -> int:
        """Number of ciphertexts for so many weights."""
        return -(-values // (self.values_per_slot * DEGREE))


@dataclass(frozen=True)
class Encrypted:
    """An encrypted model times steps: one site's, or the sum over sites, which is a global model.

    Attributes:
        ciphertexts: of the whole vector.
        layout: of the vector.
        packing: of the weights.
        key: name of the key.
        steps: of the site, or of all sites together.
    """

    ciphertexts: list[bytes]
    layout: Layout
    packing: Packing
    key: str
    steps: int

    def header(self) -> dict[str, Any]:
        """All but the ciphertexts, as plain values."""
        layout = {name: list(shape) for name, shape in self.layout.items()}
        return {"layout": layout, "packing": asdict(self.packing), "key": self.key, "steps": self.steps}

    @classmethod
    def from_parts(cls, data: Any, header: Any) -> "Encrypted":
        """Read what a message or a model file holds.

        Args:
            data: should be ``{CIPHERTEXTS: [bytes, ..]}``.
            header: should be what `header` gives.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(data, dict) or set(data) != {CIPHERTEXTS} or not isinstance(data[CIPHERTEXTS], list):
            raise ValueError("it holds no packed ciphertexts, but plaintext or something else")
        try:
            layout, packing, key, steps = (header[name] for name in ("layout", "packing", "key", "steps"))
            layout = {str(name): [int(size) for size in shape] for name, shape in layout.items()}
            return cls(data[CIPHERTEXTS], layout, Packing.from_dict(packing), str(key), _whole(steps))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its header is damaged ({type(error).__name__}: {error})") from None


class Sum:
    """The server's side: adds sites' models. It has no key.

    Args:
        layout: of the model.
        packing: as at the sites.
        key: name of the sites' key; that of the first site if not known.
    """

    def __init__(self, layout: Layout, packing: Packing, key: str = "") -> None:
        self.layout, self.packing, self.key = layout, packing, key
        self.steps, self.sites = 0, 0
        self._ciphertexts = bfv.Sum()

    def add(self, update: Encrypted) -> None:
        """Add one site's model.

        Raises:
            ValueError: it does not belong to this sum, or there is no room left; nothing was added.
        """
        if list(update.layout.items()) != list(self.layout.items()):
            raise ValueError(f"its variables are not the model's: {_difference(update.layout, self.layout)}")
        if update.packing != self.packing:
            raise ValueError(f"it was packed by {update.packing}, the others by {self.packing}")
        if self.key and update.key != self.key:
            raise ValueError(f"it was encrypted with the key {update.key}, the others with {self.key}")
        if not 1 <= update.steps <= self.packing.max_steps or self.sites >= self.packing.max_sites:
            raise ValueError(
                f"the sum has no room for it: {update.steps} steps, {self.packing.max_steps} are allowed (max_steps); "
                f"{self.sites} sites are in, {self.packing.max_sites} are allowed (max_sites)"
            )
        if len(update.ciphertexts) != self.packing.ciphertexts(values_of(self.layout)):
            raise ValueError(f"it has {len(update.ciphertexts)} ciphertexts for {values_of(self.layout)} values")
        self._ciphertexts.add(update.ciphertexts)
        self.key = update.key
        self.steps += update.steps
        self.sites += 1

    def result(self) -> Encrypted:
        """The encrypted global model."""
        return Encrypted(self._ciphertexts.to_bytes(), self.layout, self.packing, self.key, self.steps)


def values_of(layout: Layout) -> int:
    """Number of values in the vector of a model: its weights, and the one that binds the steps."""
    return sum(math.prod(shape) for shape in layout.values()) + 1


def encrypt(weights: Mapping[str, Any], steps: int, key: Key, packing: Packing) -> tuple[Encrypted, int]:
    """A site's model as it may leave, and how many weights were clipped.

    Args:
        weights: arrays by variable.
        steps: the site's weight in the mean.
        key: of all sites.
        packing: as at all sites.

    Raises:
        UnsafeError: weights that are not finite, or steps that the packing has no room for.
    """
    layout = layout_of(weights)
    parts = [np.asarray(value, dtype=np.float64).reshape(-1) for value in weights.values()]
    vector = np.concatenate([*parts, [packing.clip]])
    slots, clipped = pack(vector, steps, packing)
    return Encrypted(key.encrypt(slots), layout, packing, key.name, int(steps)), clipped


def decrypt(model: Encrypted, key: Key) -> dict[str, NDArray[np.float32]]:
    """Return the decrypted arrays by variable, each in the same shape as before encryption.

    Raises:
        ValueError: encrypted with another key, damaged, of other steps than it states, or of weights that no site
            can have sent.
    """
    if model.key != key.name:
        raise ValueError(f"it was encrypted with the key {model.key}, this one is {key.name}; take that of its run")
    size = values_of(model.layout)
    if len(model.ciphertexts) != model.packing.ciphertexts(size) or model.steps < 1:
        raise ValueError(f"it has {len(model.ciphertexts)} ciphertexts for {size} values; it is damaged")
    mean = unpack(key.decrypt(model.ciphertexts), model.steps, size, model.packing)
    _check(mean, model)
    vector = mean[:-1].astype(np.float32)
    ends = np.cumsum([math.prod(shape) for shape in model.layout.values()])[:-1]
    parts = zip(model.layout.items(), np.split(vector, ends), strict=True)
    return {name: part.reshape(tuple(shape)) for (name, shape), part in parts}


def _check(mean: Vector, model: Encrypted) -> None:
    """Whether a decrypted mean can be one: its steps are bound to it, and no weight is above what sites can send.

    Raises:
        ValueError: it cannot.
    """
    clip, slack = model.packing.clip, model.packing.resolution * model.packing.max_sites / model.steps
    if abs(mean[-1] - clip) > slack:
        raise ValueError(f"it does not hold the {model.steps} steps that it states; a site or the server has lied")
    largest = float(np.abs(mean).max())
    if largest > clip + slack:
        raise ValueError(f"a weight's mean is {largest:.3g}, and sites clip to {clip:g}; a site or the server has lied")


def pack(weights: Vector, steps: int, packing: Packing) -> tuple[Slots, int]:
    """Weights (N,) times steps as slots, and how many weights were clipped; see `encrypt`."""
    try:
        fits = 1 <= _whole(steps) <= packing.max_steps
    except ValueError:
        fits = False
    if not fits:
        raise UnsafeError(f"the update states {steps!r} steps; there is room for 1 to {packing.max_steps} (max_steps)")
    if not np.isfinite(weights).all():
        raise UnsafeError("the update holds values that are NaN or infinite")
    clipped = np.clip(weights, -packing.clip, packing.clip)
    integers = np.rint(clipped * int(steps) / packing.resolution).astype(np.int64)
    count = packing.values_per_slot
    digits = np.pad(integers, (0, -len(integers) % count)).reshape(-1, count)
    return digits @ np.array([packing.radix**n for n in range(count)]), int((clipped != weights).sum())


def unpack(slots: Slots, steps: int, values: int, packing: Packing) -> Vector:
    """Mean (values,) of the weights whose sum the slots hold.

    Args:
        slots: what `pack` gave, added up.
        steps: of all sites together.
        values: number of weights.
        packing: as at all sites.
    """
    digits, rest = [], slots
    for _ in range(packing.values_per_slot):
        digits.append((rest + packing.limit) % packing.radix - packing.limit)
        rest = (rest - digits[-1]) // packing.radix
    return np.stack(digits, axis=1).reshape(-1)[:values].astype(np.float64) * (packing.resolution / steps)


def layout_of(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    """Shapes by variable."""
    return {name: list(np.shape(value)) for name, value in weights.items()}


def _whole(value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"it states {value!r:.60} steps, which is no whole number")
    return int(value)


def _difference(one: Layout, other: Layout) -> str:
    for name in sorted(set(one) | set(other)):
        if one.get(name) != other.get(name):
            return f"{name[:60]!r} has the shape {one.get(name, 'none')}, not {other.get(name, 'none')}"
    return "they are in another order"
