"""What a node can do, in numbers that say where they come from: the profiles that planning stands on.

The packaged ones are in hardware/, one YAML file each. What is made of them is planning/'s business.
"""

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from realm_ds.config.base import Count, Rate, Section
from realm_ds.errors import ConfigError

_FOLDER = Path(__file__).parent / "hardware"
Basis = Literal["vendor", "measured", "assumed"]


class Figure(Section):
    """A number, and why it should be believed."""

    value: Rate
    basis: Basis
    source: str


class SearchFigures(Section):
    """Milliseconds of a search for one of each factor of planning/cost.py, for vectors 128 wide."""

    fixed: float
    per_message: float
    per_scanned: float
    """On one core, or on the GPU of an index rank."""
    per_hit: float
    per_token: float
    basis: Basis
    source: str


class HardwareProfile(Section):
    """One kind of node. A rank has one of its devices: a GPU, or its share of the cores."""

    about: str
    kind: Literal["gpu", "cpu"]
    devices: Count
    """GPUs, or cores, of a node."""
    device_gib: Figure
    """Memory of a GPU; of a cpu node its whole memory, which all ranks share."""
    host_gib: Figure
    """Memory of the node."""
    process_gib: Figure
    """What a rank's process holds before any of its own: the libraries."""
    matmul_fp32: Figure
    """Operations a second of the best large matrix products of a device, in float32."""
    matmul_16bit: Figure
    """Likewise in bf16 or fp16."""
    product_share: Figure
    """Of these rates, what products of a transformer's shapes reach."""
    bandwidth: Figure
    """Bytes a second that a device reads and writes in what is no product: sums, norms, GELU. Of a core far less than
    its memory gives, since these compute too."""
    launch_s: Figure
    """Seconds that the host takes to start one operation."""
    link: Figure
    """Bytes a second that all devices of a node can send each other, for each device."""
    network: Figure
    """Bytes a second into or out of a node."""
    latency_s: Figure
    """Of one message between nodes."""
    disk: Figure
    """Bytes a second of a whole run to the file system of its run folder."""
    search: SearchFigures


@cache
def hardware_names() -> tuple[str, ...]:
    """The packaged profiles, by name."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_hardware(name: str | Path) -> HardwareProfile:
    """A packaged profile by its name, or one of your own by its path."""
    is_name = str(name) in hardware_names()
    path = _FOLDER / f"{name}.yaml" if is_name else Path(name).expanduser()
    if not is_name and not path.is_file():
        close = get_close_matches(str(name), hardware_names(), n=1, cutoff=0.5)
        raise ConfigError(
            f"--hardware {name} is neither a file nor a packaged profile"
            f"{f', did you mean {close[0]}?' if close else ':'} there are {', '.join(hardware_names())}; --measure "
            "--write FILE makes one of this machine"
        )
    try:
        return HardwareProfile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the hardware profile {path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, detail['loc'])) or 'it'}: {detail['msg']}" for detail in error.errors())
        raise ConfigError(
            f"{path} is no hardware profile: {wrong}. The packaged ones, such as {hardware_names()[0]}, show the form"
        ) from error


def dump_hardware(profile: HardwareProfile) -> str:
    """As YAML, which load_hardware reads back to an equal profile."""
    return yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False, width=120, allow_unicode=True)
