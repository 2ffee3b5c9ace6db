"""torch's optimisers for small networks on small machines: the same steps, sooner.

A wrapper around every method of torch's optimisers imports torch's compiler, to tell it to leave the method alone: two
seconds of the processor and 70 MB in each process that trains, i.e. in each site of a simulator. Nothing is compiled
here, so the methods are taken without it. Adam updates all parameters in one kernel.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _without_compiler(kind: Any) -> Callable[..., Optimizer]:
    """Return the class with the methods that its wrappers wrap; `step`'s also switches gradients off."""
    methods = {name: getattr(kind, name).__wrapped__ for name in _METHODS}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(kind.step.__wrapped__)})


_Adam = _without_compiler(torch.optim.Adam)


def _adam(parameters: Any, **arguments: Any) -> Optimizer:
    optimizer = _Adam(parameters, fused=True, **arguments)
    optimizer.register_step_pre_hook(_arrange_gradients)
    return optimizer


def _arrange_gradients(optimizer: Optimizer, *_: Any) -> None:
    """Lay gradients out as their parameters are: the kernel takes both in the order of memory, whatever the strides."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": _adam, "rmsprop": _without_compiler(torch.optim.RMSprop)}


def averaged(net: nn.Module, optimizer: Optimizer, decay: float) -> AveragedModel:
    """Return a copy of the network that takes in its weights after every step, by exponential moving average.

    Its decay grows to `decay` as (1 + n) / (10 + n) over n steps, so that the start is soon forgotten.
    """

    def mix(kept: Any, new: Any, count: Tensor | int) -> None:
        number = int(count)
        torch._foreach_lerp_(kept, new, 1 - min(decay, (1 + number) / (10 + number)))

    kept = AveragedModel(net, multi_avg_fn=mix)
    optimizer.register_step_post_hook(lambda *_: kept.update_parameters(net))
    return kept
