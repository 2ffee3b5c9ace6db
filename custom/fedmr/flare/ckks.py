"""FLARE's own homomorphic encryption (CKKS), with what it lacks against a server that is after the sites' key."""

from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.filter import ContentBlockedException
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor

from fedmr.flare.he import digest_of, one_answer, rounded
from fedmr.privacy.mechanism import public_metrics
from fedmr.utils.validation import require


class CkksEncryptor(HEModelEncryptor):
    """FLARE's encryptor of all variables; metrics that come with an update leave rounded, as they do in our own.

    FLARE's takes names of layers to encrypt from the job, and would leave the others readable.

    Args:
        weigh_by_local_iter: multiply by the steps before encryption, as the server cannot.
    """

    def __init__(self, weigh_by_local_iter: bool = True) -> None:
        super().__init__(weigh_by_local_iter=weigh_by_local_iter)

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The encrypted update, or metrics of a test rounded; FLARE's lets whatever else there is pass as it is.

        Raises:
            ContentBlockedException: the result is neither.
        """
        if shareable.get_return_code() != ReturnCode.OK:
            return shareable
        dxo = from_shareable(shareable)
        if dxo.data_kind == DataKind.METRICS:
            return rounded(dxo)
        if dxo.data_kind not in (DataKind.WEIGHT_DIFF, DataKind.WEIGHTS):
            raise ContentBlockedException(f"{type(self).__name__} lets nothing leave but weights and metrics")
        return super().process(shareable, fl_ctx)

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO | None:
        """The encrypted update."""
        if (metrics := dxo.get_meta_prop(MetaKey.INITIAL_METRICS)) is not None:
            dxo.set_meta_prop(MetaKey.INITIAL_METRICS, public_metrics(metrics))
        encrypted: DXO | None = super().process_dxo(dxo, shareable, fl_ctx)
        return encrypted


class CkksDecryptor(HEModelDecryptor):
    """FLARE's decryptor, held to what `fedmr.flare.he.PackedDecryptor` is held to.

    One answer to whatever is refused, counted over all jobs; plaintext in the first round alone; all variables
    encrypted, those of the first model in their sizes; nothing that is not finite or beyond `largest`.

    Args:
        largest: magnitude of a weight beyond which a model is none.
        of_flare: arguments of FLARE's decryptor.
    """

    def __init__(self, largest: float = 1e4, **of_flare: Any) -> None:
        super().__init__(**of_flare)
        self.largest = require("largest", largest, 0)
        self._sizes: dict[str, int] = {}
        self._plain = b""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The task with weights.

        Raises:
            ContentBlockedException: the model is refused.
            KeyLockedError: too many were.
        """
        with one_answer(fl_ctx):
            return self._checked(shareable, fl_ctx)

    def _checked(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The task with weights.

        Raises:
            ValueError: the model must not be used.
        """
        dxo = from_shareable(shareable)
        if not dxo.get_meta_prop(MetaKey.PROCESSED_KEYS) and dxo.get_meta_prop(MetaKey.PROCESSED_ALGORITHM) is None:
            digest = digest_of(dxo)
            if self._sizes and digest != self._plain:
                raise ValueError("a second plaintext model")
            self._sizes, self._plain = {name: np.size(value) for name, value in dxo.data.items()}, digest
            return shareable
        encrypted = dxo.get_meta_prop(MetaKey.PROCESSED_KEYS) or {}
        if not all(encrypted.get(name) is True for name in dxo.data):
            raise ValueError("not all of its variables are encrypted")
        result = self.process_dxo(dxo, shareable, fl_ctx)
        if result is None:
            raise ValueError("it is encrypted in another way")
        sizes = {name: np.size(value) for name, value in result.data.items()}
        if self._sizes and sizes != self._sizes:
            raise ValueError("its variables are not those of the first model")
        most = max((float(np.abs(np.asarray(value)).max(initial=0)) for value in result.data.values()), default=np.nan)
        if not most <= self.largest:
            raise ValueError(f"a weight of {most:.3g}")
        self._sizes = sizes
        return result.update_shareable(shareable)
