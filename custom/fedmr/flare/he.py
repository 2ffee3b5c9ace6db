"""Homomorphic encryption: `fedmr.privacy.packing` as filters and an aggregator, and what FLARE's own lacks."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import ContentBlockedException, Filter
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_opt.he.homomorphic_encrypt import load_tenseal_context_from_workspace, serialize_nested_dict
from nvflare.app_opt.pt.file_model_locator import PTFileModelLocator
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor
from nvflare.app_opt.pt.model_persistence_format_manager import PTModelPersistenceFormatManager
from nvflare.fuel.sec.security_content_service import SecurityContentService

from fedmr.flare.messages import unpack
from fedmr.flare.sites import local_folder
from fedmr.privacy import packing
from fedmr.privacy.bfv import Key
from fedmr.privacy.key_lock import FAILURES_FILE, KeyLock
from fedmr.privacy.mechanism import public_metrics
from fedmr.privacy.packing import ALGORITHM, CIPHERTEXTS, HEADER, Encrypted, Packing, Sum, layout_of
from fedmr.utils.text import one_line

_CONTEXT = "client_context.tenseal"  # as FLARE's HEBuilder names it
REFUSED = "the site refuses the model"


@contextmanager
def one_answer(fl_ctx: FLContext) -> Iterator[None]:
    """Give one answer to whatever is wrong with a model that a key is to open, and count it over all jobs.

    Raises:
        ContentBlockedException: something is wrong with the model.
        KeyLockedError: too many were refused; nothing is looked at.
    """
    lock = KeyLock(local_folder(fl_ctx) / FAILURES_FILE)
    lock.require_open()
    try:
        yield
    except Exception as error:  # the answer must not depend on what went wrong
        lock.add(one_line(error))
        raise ContentBlockedException(REFUSED) from None


class _KeyHolder(Filter):
    """A site's filter with the key that FLARE provisioned.

    Args:
        context_file: in the site's startup folder.
    """

    def __init__(self, context_file: str = _CONTEXT) -> None:
        super().__init__()
        self.context_file = context_file
        self._key: Key | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Load the key, once FLARE has checked the file's signature."""
        if event_type == EventType.START_RUN:
            load_tenseal_context_from_workspace(self.context_file, fl_ctx)
            self._key = Key(SecurityContentService.load_content(self.context_file)[0])
        elif event_type == EventType.END_RUN:
            self._key = None

    @property
    def key(self) -> Key:
        """The key.

        Raises:
            RuntimeError: the run has not started, or has ended.
        """
        if self._key is None:
            raise RuntimeError(f"{self.context_file} is not loaded")
        return self._key


class PackedEncryptor(_KeyHolder):
    """Turns the site's update into its encrypted weights times steps, and blocks all but metrics. It comes last.

    Metrics leave rounded, also those of a test: exact ones of models that a server has made from ciphertexts would
    tell of the weights in them.

    Weights, not differences: what the server keeps is then a whole global model, for sites that were away or have
    started anew as for all others, and no sum of many rounds' roundings.

    Args:
        packing: the numbers of `fedmr.privacy.packing.Packing`, the same at the server.
        context_file: in the site's startup folder.
    """

    def __init__(self, packing: dict[str, Any] | None = None, context_file: str = _CONTEXT) -> None:
        super().__init__(context_file)
        self.packing = Packing.from_dict(packing or {})
        self._received: dict[str, Any] = {}

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Keep the model that the site trains from; FLARE drops it before result filters run."""
        super().handle_event(event_type, fl_ctx)
        name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if event_type == EventType.BEFORE_TASK_EXECUTION and name == AppConstants.TASK_TRAIN:
            self._received = dict(unpack(fl_ctx.get_prop(FLContextKey.TASK_DATA))[0])

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The encrypted result with rounded metrics; an error passes.

        Raises:
            ContentBlockedException: the result is no update of the received weights.
            UnsafeError: values that are not finite, too many steps, or metrics that are none.
        """
        if shareable.get_return_code() != ReturnCode.OK:
            return shareable
        dxo = from_shareable(shareable)
        if dxo.data_kind == DataKind.METRICS:
            return rounded(dxo)
        if dxo.data_kind != DataKind.WEIGHT_DIFF or layout_of(dxo.data) != layout_of(self._received):
            raise ContentBlockedException(f"{type(self).__name__} lets nothing leave but an update of all weights")
        weights = {name: np.add(value, dxo.data[name], dtype=np.float64) for name, value in self._received.items()}
        steps = dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND)
        model, clipped = packing.encrypt(weights, steps, self.key, self.packing)
        site, size = fl_ctx.get_identity_name(), sum(map(len, model.ciphertexts))
        say = self.log_warning if clipped else self.log_info
        say(fl_ctx, f"{site} | encrypted into {size} bytes, {clipped} weights clipped to {self.packing.clip:g}")
        metrics = dxo.get_meta_prop(MetaKey.INITIAL_METRICS)
        meta = {MetaKey.INITIAL_METRICS: public_metrics(metrics) if metrics else None}
        return _to_dxo(model, meta | {MetaKey.NUM_STEPS_CURRENT_ROUND: model.steps}).to_shareable()


class PackedDecryptor(_KeyHolder):
    """Turns the encrypted global model into weights, and refuses what no honest server sends.

    The first round's model is not encrypted; no other plaintext is taken. The packing is the site's own, the layout
    that of the first model. What is refused gets one answer, whatever was wrong with it, and is counted over all
    jobs (`fedmr.privacy.key_lock`): a server must not learn the key from a site's answers.

    Args:
        packing: the numbers of `fedmr.privacy.packing.Packing`, as at the encryptor.
        context_file: in the site's startup folder.
    """

    def __init__(self, packing: dict[str, Any] | None = None, context_file: str = _CONTEXT) -> None:
        super().__init__(context_file)
        self.packing = Packing.from_dict(packing or {})
        self._layout: dict[str, list[int]] = {}
        self._plain = b""  # digest of the first round's model

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The task with weights.

        Raises:
            ContentBlockedException: the model is refused.
            KeyLockedError: too many were.
        """
        with one_answer(fl_ctx):
            weights = self._weights(from_shareable(shareable))
        return DXO(DataKind.WEIGHTS, weights).update_shareable(shareable) if weights is not None else shareable

    def _weights(self, dxo: DXO) -> dict[str, Any] | None:
        """Decrypted weights, None if they may be used as they are.

        Raises:
            ValueError: the model must not be used.
        """
        if dxo.get_meta_prop(MetaKey.PROCESSED_ALGORITHM) is None:
            digest = digest_of(dxo)
            if self._layout and digest != self._plain:
                raise ValueError("a second plaintext model")
            self._layout, self._plain = layout_of(dxo.data), digest
            return None
        model = _from_dxo(dxo)
        if model.packing != self.packing:
            raise ValueError(f"it was packed by {model.packing}, the site packs by {self.packing}")
        if not 1 <= model.steps <= self.packing.max_steps * self.packing.max_sites:
            raise ValueError(f"it states {model.steps} steps, more than all sites can do")
        layout = {name: list(shape) for name, shape in model.layout.items()}
        if self._layout and list(layout.items()) != list(self._layout.items()):
            raise ValueError("its variables are not those of the first model")
        weights = packing.decrypt(model, self.key)
        self._layout = layout
        return dict(weights)


class PackedAggregator(Aggregator):
    """Adds what `PackedEncryptor` sends, without a key. What does not belong to the sum is refused, by site's name.

    Args:
        packing: as at the sites.
        expected_data_kind: nothing but weights.
    """

    def __init__(self, packing: dict[str, Any] | None = None, expected_data_kind: str = DataKind.WEIGHTS) -> None:
        super().__init__()
        if expected_data_kind != DataKind.WEIGHTS:
            raise ValueError(f"PackedAggregator takes {DataKind.WEIGHTS.value}, not {expected_data_kind}")
        self.packing = Packing.from_dict(packing or {})
        self._key_name = ""
        self._sum: Sum | None = None
        self._sites: set[str] = set()

    def reset(self, fl_ctx: FLContext) -> None:
        """Start a round."""
        self._sum, self._sites = None, set()

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Add one site's update, or say why not."""
        site = shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?")
        try:
            if shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND) != fl_ctx.get_prop(AppConstants.CURRENT_ROUND):
                raise ValueError("it is of another round")
            if site in self._sites:
                raise ValueError("there is one of this site")
            dxo = from_shareable(shareable)
            update = _from_dxo(dxo)
            if update.steps != dxo.get_meta_prop(MetaKey.NUM_STEPS_CURRENT_ROUND):
                raise ValueError("it states two numbers of steps")
            self._sum = self._sum or self._start(fl_ctx)
            self._sum.add(update)
        except ValueError as error:
            self.log_error(fl_ctx, f"{site} | refused: {one_line(error)}", fire_event=False)
            return False
        self._key_name = update.key
        self._sites.add(site)
        return True

    def _start(self, fl_ctx: FLContext) -> Sum:
        """A sum for the global model; an encrypted one says which key is the sites'."""
        model = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        header = (model[ModelLearnableKey.META] or {}).get(HEADER)
        if header is None:
            return Sum(layout_of(model[ModelLearnableKey.WEIGHTS]), self.packing, self._key_name)
        return Sum(header["layout"], self.packing, header["key"])

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """The sum, which says what it takes to decrypt it; without weights if no update was accepted."""
        dxo = _to_dxo(self._sum.result(), {}) if self._sum and self._sites else DXO(DataKind.WEIGHTS, data={})
        return dxo.to_shareable()


class PackedPersistor(PTFileModelPersistor):
    """FLARE's persistor for models of one variable, the ciphertexts, where their network has many."""

    def _get_persistence_manager(self, fl_ctx: FLContext) -> PTModelPersistenceFormatManager:
        manager = super()._get_persistence_manager(fl_ctx)
        manager.var_dict = {}  # takes the next model whole, instead of by the variables of the last one
        return manager


class HEModelLocator(PTFileModelLocator):
    """FLARE's locator for FLARE's own HE: FLARE 2.9.0 cannot send its models as ciphertext objects."""

    def locate_model(self, model_name: str, fl_ctx: FLContext) -> DXO:
        """The model as ciphertext bytes."""
        dxo = super().locate_model(model_name, fl_ctx)
        serialize_nested_dict(dxo.data)
        return dxo


def rounded(metrics: DXO) -> Shareable:
    """Metrics of a test as they may leave.

    Raises:
        UnsafeError: they are none.
    """
    return DXO(DataKind.METRICS, data=public_metrics(metrics.data)).to_shareable()


def digest_of(dxo: DXO) -> bytes:
    """Hash of plaintext weights.

    Raises:
        ValueError: they are no weights.
    """
    if dxo.data_kind != DataKind.WEIGHTS:
        raise ValueError(f"it holds {dxo.data_kind}, and no weights")
    digest = hashlib.sha256()
    for name, value in dxo.data.items():
        array = np.asarray(value, dtype=np.float64)
        digest.update(f"{name}{array.shape}".encode() + array.tobytes())
    return digest.digest()


def _to_dxo(model: Encrypted, meta: dict[str, Any]) -> DXO:
    """FLARE takes out what is named in PROCESSED_KEYS where it converts weights, e.g. in a persistor."""
    processed = {MetaKey.PROCESSED_ALGORITHM: ALGORITHM, MetaKey.PROCESSED_KEYS: {CIPHERTEXTS: True}}
    return DXO(DataKind.WEIGHTS, {CIPHERTEXTS: model.ciphertexts}, meta | processed | {HEADER: model.header()})


def _from_dxo(dxo: DXO) -> Encrypted:
    """The model in a message.

    Raises:
        ValueError: there is none, or it was encrypted in another way.
    """
    algorithm = dxo.get_meta_prop(MetaKey.PROCESSED_ALGORITHM)
    if dxo.data_kind != DataKind.WEIGHTS or algorithm != ALGORITHM:
        raise ValueError(f"it holds {dxo.data_kind}, encrypted by {algorithm}; WEIGHTS by {ALGORITHM} are expected")
    return Encrypted.from_parts(dxo.data, dxo.get_meta_prop(HEADER))
