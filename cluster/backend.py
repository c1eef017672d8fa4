"""Ray Train without a process group of its own: `cluster.workers` makes that, and where."""

from ray.train.backend import Backend, BackendConfig


class _SharedDevicesBackend(Backend):
    share_cuda_visible_devices = True  # every rank sees its node's GPUs and takes its local_rank's


class SharedDevices(BackendConfig):
    """Plain worker processes that see all the GPUs the job has on their node."""

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train calls around a worker group's life."""
        return _SharedDevicesBackend
