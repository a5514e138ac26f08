"""The networks that the toolkit knows, one file each. To add one, see CONTRIBUTING.md."""

from adadm.export.models.edsr import EDSR
from adadm.export.models.network import Network
from adadm.export.models.nlsn import NLSN
from adadm.export.models.rdn import RDN

__all__ = ["ARCHITECTURES", "EDSR", "NLSN", "RDN", "Network"]

ARCHITECTURES: dict[str, type[Network]] = {
    network.architecture: network for network in (NLSN, EDSR, RDN)
}
"""In the order in which a checkpoint is recognised: NLSN has the keys of EDSR, and more."""
