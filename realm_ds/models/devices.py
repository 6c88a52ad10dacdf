"""The GPUs as torch sees them from this process: those that training will find, and how much memory one has."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What a process may use."""

    names: tuple[str, ...] = ()
    """By number."""
    free_bytes: int = 0
    """Of the one that was asked for."""
    total_bytes: int = 0


def visible_gpus(device_number: int) -> Gpus:
    """All that this process sees, and the memory of one of them; zeros if that one is not among them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = tuple(torch.cuda.get_device_name(number) for number in range(count))
    free, total = torch.cuda.mem_get_info(device_number) if device_number < count else (0, 0)
    return Gpus(names=names, free_bytes=free, total_bytes=total)
