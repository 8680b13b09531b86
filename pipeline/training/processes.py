"""The processes of a run: one, or those that ``torchrun`` started; what they exchange and how the model is wrapped.

Accelerate sets up the process group (nccl on GPUs, gloo on CPUs), wraps for data-parallel training and runs autocast.
Sharding is PyTorch's own ``fully_shard`` (FSDP2), called directly: Accelerate offers it on accelerators only, and this
way the tests run it on CPUs.
"""

import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import nn

from pipeline.config.device import pick_device
from pipeline.config.layers import dotted_values
from pipeline.config.schema import ConfigError, RunConfig
from pipeline.folding.model import FoldingModel

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others: the first one alone writes checkpoints, which takes its time when all of a
large stem trains and the disk is slow. torchrun ends all when one dies, so a hang is not found by this alone."""


def launched_processes() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_restarted() -> bool:
    """Whether ``torchrun --max-restarts`` started this process again after the loss of a worker."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether ``error`` means that another process went away. gloo has no exception of its own."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


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


def _join_after_restart(device: torch.device) -> None:
    """Join the group under keys of this attempt.

    torchrun keeps its store over restarts (torch 2.13), where the addresses of the attempt before stand: a process
    that reads them before its peer has written new ones waits for ever.
    """
    store, rank, count = next(torch.distributed.rendezvous("env://"))
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=torch.distributed.PrefixStore(f"attempt_{attempt}", store),
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )


class Processes:
    """This process among those of the run."""

    def __init__(self, config: RunConfig, folder: Path | None = None) -> None:
        """Join the group; trackers write to ``folder``.

        Raises ConfigError: an unknown device, settings that do not go together, a tracker that is not
        installed.
        """
        training, count = config.training, launched_processes()
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
        device = _own_device(training.device, count)
        AcceleratorState._reset_state(not torch.distributed.is_initialized())  # of a run before this one
        if count > 1 and is_restarted() and not torch.distributed.is_initialized():
            _join_after_restart(device)
        self.accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no" if training.precision == "fp32" else "bf16",
            log_with=list(training.trackers) or None,
            project_dir=folder,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.count = count
        self.rank: int = self.accelerator.process_index
        self.device = self.accelerator.device if count > 1 else device
        if training.cpu_threads:
            torch.set_num_threads(training.cpu_threads)  # after Accelerate, which sets it too
        if training.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        self.sharded = training.parallel == "fsdp2" and count > 1

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
            wrapped = self.accelerator.prepare_model(model, device_placement=False)
            # With bf16 it also puts the model's own forward under autocast for good, validation in float32 included.
            vars(model).pop("forward", None)
            return wrapped
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
        return fully_shard(model, mesh=mesh, reshard_after_forward=True)

    @contextmanager
    def accumulating(self, wrapped: nn.Module) -> Iterator[None]:
        """Within the block backward passes leave gradients on their own process."""
        if self.sharded:
            wrapped.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                wrapped.set_requires_gradient_sync(True)
            return
        with self.accelerator.no_sync(wrapped):
            yield

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes."""
        return self.accelerator.autocast()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, on all of them; ``tensor`` itself with one."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any process."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, items: list) -> list:
        """The items of all processes in the order of their ranks, on all of them. For small things and rare events."""
        return gather_object(items) if self.count > 1 else items

    def wait(self) -> None:
        """Until all processes are here."""
        self.accelerator.wait_for_everyone()

    def start_trackers(self, config: RunConfig, name: str) -> None:
        """Open the trackers of the configuration, on the first process."""
        if config.training.trackers:
            values = dotted_values(config)
            plain = {key: v if isinstance(v, (int, float, str)) else str(v) for key, v in values.items()}
            folder = self.accelerator.project_dir
            options = {"wandb": {"name": name, "dir": folder}}
            self.accelerator.init_trackers("lorta-fold", config=plain, init_kwargs=options)

    def track(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers to the trackers."""
        if self.accelerator.trackers:
            self.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Close the trackers and leave the group."""
        if self.count > 1 or self.accelerator.trackers:
            self.accelerator.end_training()
