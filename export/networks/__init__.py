"""Networks of the toolkit, one file each. To add one, see CONTRIBUTING.md."""

from adadm.export.networks.edsr import EDSR
from adadm.export.networks.network import Network
from adadm.export.networks.nlsn import NLSN
from adadm.export.networks.rdn import RDN

__all__ = ["ARCHITECTURES", "EDSR", "NLSN", "RDN", "Network"]

ARCHITECTURES: dict[str, type[Network]] = {
    network.architecture: network for network in (NLSN, EDSR, RDN)
}
"""Networks by name, in the order of recognition: NLSN has the keys of EDSR, and more."""
