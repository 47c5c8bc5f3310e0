"""Many processes that learn together, under torchrun: parameters, gradients and optimisers' states are divided (FSDP2).

Also as HSDP (several whole copies, each divided) and with matrices divided by heads and inner channels (tensor
parallel). On a CPU the processes talk by gloo, on GPUs by NCCL.
"""

import os
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from octavo.core.errors import ConfigError
from octavo.models.config import DecoderConfig
from octavo.train.ranks import Ranks, T
from octavo.train.step import Learner


def open_ranks(*, copies: int = 1, tensor: int = 1) -> Ranks:
    """This process among those that torchrun has started; alone where it has not.

    copies   whole copies of the model, each divided among a share of the ranks (HSDP)
    tensor   ranks that share each matrix and read the same batches
    Raises ConfigError where the number of ranks is not a multiple of copies * tensor.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size % (copies * tensor):
        raise ConfigError(
            f"copies={copies} and tensor={tensor} need a multiple of {copies * tensor} processes, there are {size}: "
            f"start torchrun --nproc-per-node with as many."
        )
    if size == 1:
        return Ranks("cuda" if torch.cuda.is_available() else "cpu")
    return Together(size, copies=copies, tensor=tensor)


class Together(Ranks):
    """One of several processes."""

    def __init__(self, size: int, *, copies: int, tensor: int) -> None:
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        kind = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__(kind)
        self.rank, self.size, self.tensor = int(os.environ["RANK"]), size, tensor
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        self.readers = size // tensor
        self.reader = self.rank // tensor
        shape, names = (copies, self.readers // copies, tensor), ("copy", "shard", "tensor")
        self.mesh = init_device_mesh(kind, shape, mesh_dim_names=names)
        every: Any = self.mesh["copy", "shard"]._flatten("readers")  # pyright: ignore[reportPrivateUsage]
        self.group = every.get_group()
        self.fsdp: Any = self.mesh["copy", "shard"] if copies > 1 else self.mesh["shard"]

    def divide(self, learner: Learner) -> None:
        """Matrices first, then each layer's and at last the rest's parameters."""
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        learner.to(self.device)
        if self.tensor > 1:
            divide_matrices(learner.model, self.mesh["tensor"])
        for module in (*learner.model.model.layers, learner):
            fully_shard(module, mesh=self.fsdp)
            assert isinstance(module, FSDPModule)
            module.set_force_sum_reduction_for_comms(True)  # gradients are sums, never means of means
            module.set_gradient_divide_factor(1.0)
        register_fsdp_forward_method(learner, "surprise")

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all readers, in float64."""
        return self._sum(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def most(self, value: int) -> int:
        """The largest over all readers."""
        import torch.distributed as dist

        x = torch.tensor(value, device=self.device)
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=self.group)
        return int(x)

    def first_says(self, value: bool) -> bool:
        """What the first rank says: to all, also those that share its batches."""
        import torch.distributed as dist

        x = torch.tensor(value, dtype=torch.int32, device=self.device)
        dist.broadcast(x, src=0)
        return bool(x)

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What `share` gave the readers, in its order, with what each has made of its own."""
        import torch.distributed as dist

        parts: list[Any] = [None] * self.readers
        dist.all_gather_object(parts, list(mine), group=self.group)
        nothing = object()
        return [one for row in zip_longest(*parts, fillvalue=nothing) for one in row if one is not nothing]

    def across(self, x: Tensor) -> Tensor:
        """The sum of a tensor over all readers."""
        return self._sum(x.detach().to(self.device, copy=True))

    def _sum(self, x: Tensor) -> Tensor:
        import torch.distributed as dist

        dist.all_reduce(x, group=self.group)
        return x

    def clip(self, parameters: Sequence[nn.Parameter], *, most: float) -> float:
        """As alone; parameters that are divided in different ways have norms of their own first."""
        ways: dict[Any, list[nn.Parameter]] = {}
        for parameter in parameters:
            ways.setdefault(getattr(parameter, "device_mesh", None), []).append(parameter)
        norms = [
            self.whole(torch.nn.utils.get_total_norm([p.grad for p in each if p.grad is not None]))
            for each in ways.values()
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        for each in ways.values():
            torch.nn.utils.clip_grads_with_norm_(each, most, norm)
        return float(norm)

    def whole(self, x: Tensor) -> Tensor:
        """All of a divided tensor."""
        from torch.distributed.tensor import DTensor

        return x.full_tensor() if isinstance(x, DTensor) else x

    def part(self, whole: Tensor, like: Tensor) -> Tensor:
        """This rank's part of a tensor that every rank has."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor) or isinstance(whole, DTensor) or whole.shape != like.shape:
            return whole
        return distribute_tensor(whole.to(self.device), like.device_mesh, like.placements, src_data_rank=None)

    def wait(self) -> None:
        """Until all ranks are here."""
        import torch.distributed as dist

        dist.barrier()


def divide_matrices(model: nn.Module, mesh: Any) -> None:
    """Each rank of the mesh has some heads of each attention and some inner channels of each MLP.

    Source: Megatron-LM, arXiv:1909.08053. Raises ConfigError where heads or channels cannot be divided so.
    """
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    config: Any = model.config
    assert isinstance(config, DecoderConfig)
    ranks, moe = mesh.size(), config.moe is not None
    if config.heads.kv_heads % ranks or config.heads.heads % ranks or config.inner % ranks:
        raise ConfigError(
            f"tensor={ranks} must divide the {config.heads.heads} heads, {config.heads.kv_heads} key/value heads and "
            f"{config.inner} inner channels of the model."
        )
    plan: dict[str, Any] = {f"self_attn.{name}_proj": ColwiseParallel() for name in ("q", "k", "v")}
    plan["self_attn.o_proj"] = RowwiseParallel()
    if config.heads.qk_norm:
        plan |= {f"self_attn.{name}_norm": SequenceParallel(sequence_dim=1, use_local_output=True) for name in "qk"}
    if not moe:
        plan |= {f"mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")}
        plan["mlp.down_proj"] = RowwiseParallel()
    layers: Any = model.model
    for layer in layers.layers:
        parallelize_module(layer, mesh, plan)
