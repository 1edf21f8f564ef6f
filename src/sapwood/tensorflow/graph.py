"""A loss that TensorFlow computes and differentiates, as one operation of torch's autograd.

The trained tensors live in torch, where optimiser, checkpoints and search have them; before a loss
is computed they are copied into TensorFlow's variables, and its gradients come back with
`backward`. A method's tensors are small; even all of a small net is copied in the time of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sapwood.tensorflow.arrays import Weights
from sapwood.tensorflow.arrival import tensorflow

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Graph:
    """Summed losses of `weights`, compiled once for rows of any number and length.

    `losses(weights, given)` returns scalars for `given`, a dict of tensors; `like` is one example
    of it, whose axes may all have other lengths later. `trained`: torch's tensors by the names of
    the variables they stand for; the other variables stay as they are. `xla`: compile with XLA,
    anew for every shape.
    """

    def __init__(
        self,
        weights: Weights,
        losses: Callable[[Weights, Mapping[str, Any]], tuple[Any, ...]],
        trained: Mapping[str, Tensor],
        *,
        like: Arrays,
        xla: bool = False,
    ) -> None:
        tf = tensorflow()
        self.weights, self.trained = weights, dict(trained)
        spec = {
            name: tf.TensorSpec([None] * array.ndim, tf.as_dtype(array.dtype))
            for name, array in like.items()
        }
        self._losses = tf.function(
            lambda given: losses(weights, given), input_signature=[spec], autograph=False,
            jit_compile=xla or None, reduce_retracing=not xla,
        )  # fmt: skip

    def __call__(self, given: Arrays) -> tuple[Tensor, ...]:
        """Return the losses as scalars that torch can differentiate."""
        tf = tensorflow()
        constants = {name: tf.constant(array) for name, array in given.items()}
        return _Operation.apply(self, constants, *self.trained.values())  # type: ignore[no-untyped-call, no-any-return]

    def values(self, given: Mapping[str, Any], *, tape: Any = None) -> tuple[Any, ...]:
        """Return the losses as TensorFlow's scalars, under a tape that watches what trains."""
        self._copy()
        if tape is not None:
            tape.watch([self.weights[name] for name in self.trained])
        return tuple(self._losses(dict(given)))

    def _copy(self) -> None:
        for name, tensor in self.trained.items():  # optimisers need not tell what they changed
            self.weights[name].assign(tensor.detach().cpu().numpy())


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graph: Graph, given: Mapping[str, Any], *trained: Tensor) -> Any:
        """Compute the losses; keep the tape for `backward`."""
        tf = tensorflow()
        ctx.graph, ctx.device = graph, trained[0].device
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            ctx.losses = graph.values(given, tape=tape)
        ctx.tape = tape
        return tuple(torch.tensor(float(loss), device=ctx.device) for loss in ctx.losses)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Return TensorFlow's gradients of the trained tensors."""
        tf = tensorflow()
        found = ctx.tape.gradient(
            list(ctx.losses),
            [ctx.graph.weights[name] for name in ctx.graph.trained],
            output_gradients=[tf.constant(float(slope)) for slope in slopes],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        arrays = (tf.convert_to_tensor(each).numpy() for each in found)
        return None, None, *(torch.tensor(array, device=ctx.device) for array in arrays)
