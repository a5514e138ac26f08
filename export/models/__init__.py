"""The networks that the toolkit knows, one file each. To add one, see CONTRIBUTING.md."""

from adadm.export.models.edsr import EDSR
from adadm.export.models.network import Network

__all__ = ["ARCHITECTURES", "EDSR", "Network"]

ARCHITECTURES: dict[str, type[Network]] = {network.architecture: network for network in (EDSR,)}
