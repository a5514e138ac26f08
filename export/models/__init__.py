"""The networks that the toolkit knows, one file each. To add one, see CONTRIBUTING.md."""

from adadm.export.models.edsr import EDSR
from adadm.export.models.network import Network
from adadm.export.models.rdn import RDN

__all__ = ["ARCHITECTURES", "EDSR", "RDN", "Network"]

ARCHITECTURES: dict[str, type[Network]] = {network.architecture: network for network in (EDSR, RDN)}
