"""The processes of a run: one, or those that ``torchrun`` started; what they exchange and how the model is wrapped.

All of it is PyTorch's own: process groups (nccl on GPUs, gloo on CPUs), DDP and ``fully_shard`` (FSDP2), autocast.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from pipeline.config.device import pick_device
from pipeline.config.layers import dotted_values
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding.model import FoldingModel

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others: the first one alone writes checkpoints, which takes its time when all of a
large stem trains and the disk is slow. torchrun ends all when one dies, so a hang is not found by this alone."""
PROJECT = "lorta-fold"
"""Of the run in experiment trackers."""


def is_restarted() -> bool:
    """Whether ``torchrun --max-restarts`` started this process again after the loss of a worker."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_lost_connection(error: Exception) -> bool:
    """Whether ``error`` means that another process went away. gloo has no exception of its own."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _own_device(name: str, count: int) -> torch.device:
    """The device of this process; with several, each takes the GPU of its local rank. Raises ConfigError.

    The GPU becomes the current one before anything is put on it: foreign kernels and collective operations go by that,
    and otherwise every process would leave some hundred megabytes on the first.
    """
    if count > 1 and (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    device = pick_device(name)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    return device


def _join_group(device: torch.device) -> None:
    """Join the group under keys of this attempt.

    torchrun keeps its store over restarts (torch 2.13), with the addresses of the attempt before in it: a process that
    reads them before its peer has written new ones waits for ever.
    """
    store, rank, count = next(distributed.rendezvous("env://", timeout=PATIENCE))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"attempt_{attempt}", store),
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )


class Processes:
    """This process among those of the run."""

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Join the group; trackers write to ``folder``.

        Raises ConfigError: an unknown device, settings that do not go together, a tracker that is not installed.
        """
        training = config.training
        self.count = count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and config.data.batch_size % count:
            raise ConfigError(
                f"configuration: data.batch_size = {config.data.batch_size} is not a multiple of the {count} processes"
            )
        if training.parallel == "fsdp2" and config.optimizer.clip == "sample":
            raise ConfigError(
                "configuration: optimizer.clip = 'sample' needs each sample's whole gradient on one process: "
                "with training.parallel = 'fsdp2' use 'global'"
            )
        for tracker in training.trackers:
            if importlib.util.find_spec(tracker) is None:
                raise ConfigError(
                    f"configuration: training.trackers: {tracker} is not installed: pip install 'lorta-fold[tracking]'"
                )
        self.device = _own_device(training.device, count)
        if count > 1 and not distributed.is_initialized():
            _join_group(self.device)
        self.rank = distributed.get_rank() if count > 1 else 0
        if training.cpu_threads:
            torch.set_num_threads(training.cpu_threads)
        if training.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        self.sharded = training.parallel == "fsdp2" and count > 1
        self._half = training.precision == "bf16"
        self._folder = folder
        self._tensorboard: Any = None
        self._wandb: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def wrap(self, model: FoldingModel) -> nn.Module:
        """What to call for a training step: the model itself, DDP around it, or the model with sharded parameters.

        Sharded: one unit per trunk block and per stem layer; the root keeps the rest, the adapter's factors among it.
        The layers of the stem hold references to them that are not registered, so each factor is sharded once.
        """
        if self.count == 1:
            return model
        if not self.sharded:
            own = [self.device] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(model, device_ids=own)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # Outputs are views of what the model computes with; nothing here changes them in place.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        # The mesh by name: the default is one of GPUs wherever there are some, also for a run on the CPU.
        mesh = init_device_mesh(self.device.type, (self.count,))
        for unit in (*model.trunk.blocks, *model.stem.esm.layers):
            fully_shard(unit, mesh=mesh)
        # The root too gives its parameters back after each forward pass: after one without a backward pass (validation
        # with averaged weights) it would go on with those that it gathered then.
        return fully_shard(model, mesh=mesh, reshard_after_forward=True)  # type: ignore[return-value]

    @contextmanager
    def accumulating(self, wrapped: nn.Module) -> Iterator[None]:
        """Within the block backward passes leave gradients on their own process."""
        if isinstance(wrapped, nn.parallel.DistributedDataParallel):
            with wrapped.no_sync():
                yield
        elif self.sharded:
            wrapped.set_requires_gradient_sync(False)  # type: ignore[operator]
            try:
                yield
            finally:
                wrapped.set_requires_gradient_sync(True)  # type: ignore[operator]
        else:
            yield

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16) if self._half else nullcontext()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, on all of them; ``tensor`` itself with one."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, items: list) -> list:
        """The items of all processes in the order of their ranks, on all of them. For small things and rare events."""
        if self.count == 1:
            return items
        gathered: list[list] = [[] for _ in range(self.count)]
        distributed.all_gather_object(gathered, items)
        return [item for own in gathered for item in own]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def start_trackers(self, config: RunConfig, name: str) -> None:
        """Open the trackers of the configuration, on the first process; they write to the folder of the run."""
        if not self.is_main or not config.training.trackers:
            return
        values = {k: v if isinstance(v, (int, float, str)) else str(v) for k, v in dotted_values(config).items()}
        if "tensorboard" in config.training.trackers:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str((self._folder or Path()) / PROJECT))
            self._tensorboard.add_hparams(values, metric_dict={})
        if "wandb" in config.training.trackers:
            import wandb

            self._wandb = wandb.init(project=PROJECT, name=name, dir=self._folder, config=values)

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers to the trackers."""
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        """Close the trackers and leave the group."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self.count > 1:
            distributed.destroy_process_group()
