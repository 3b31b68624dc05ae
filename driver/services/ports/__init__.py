"""What the use cases need from the outside, as Protocols: the seams of the whole driver.

store/, link/ and datapath/ implement them; services/ and the tests' fakes know nothing else.
Every effect stands beside its inverse.  Inverses of something absent succeed.
"""

from driver.services.ports.addresses import (
    AddressBook,
    Addresses,
    Subnet,
    Versioned,
)
from driver.services.ports.datapath import (
    Attachment,
    Datapath,
    SandboxEntry,
)
from driver.services.ports.engine import (
    Engine,
    EngineView,
    Swarm,
    SwarmView,
)
from driver.services.ports.feeds import (
    Directory,
    DirectoryListener,
    Hosts,
    ServiceFeed,
    ServiceListener,
)
from driver.services.ports.links import (
    Interface,
    Joins,
    Links,
    Presence,
    Prober,
    RoutedNetworks,
    Sandboxes,
    SandboxFinisher,
    Teardowns,
    Veth,
)
from driver.services.ports.records import (
    Absences,
    Endpoints,
    Networks,
    ServiceRecords,
)

__all__ = [
    "Absences",
    "AddressBook",
    "Addresses",
    "Attachment",
    "Datapath",
    "Directory",
    "DirectoryListener",
    "Endpoints",
    "Engine",
    "EngineView",
    "Hosts",
    "Interface",
    "Joins",
    "Links",
    "Networks",
    "Presence",
    "Prober",
    "RoutedNetworks",
    "SandboxEntry",
    "SandboxFinisher",
    "Sandboxes",
    "ServiceFeed",
    "ServiceListener",
    "ServiceRecords",
    "Subnet",
    "Swarm",
    "SwarmView",
    "Teardowns",
    "Versioned",
    "Veth",
]
