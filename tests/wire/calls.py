"""Makes the contract's calls: ids, arguments, and the three calls that most rows need."""

from __future__ import annotations

from tests.support.world.client import Dockerd

NET = "8c1f" * 16
SWARM_NET = "tk3xq0d6y2v9n1m4b7c8z5a6l"  # 25 base-36 digits
EP = "0123456789abcdef" * 4
EP2 = "fedcba9876543210" * 4
SANDBOX = "/var/run/docker/netns/4f0a1b2c3d4e"
V4 = [{"AddressSpace": "slim-local", "Pool": "10.50.0.0/16", "Gateway": "10.50.0.1/16",
       "AuxAddresses": {}}]
INTERFACE = {"Address": "10.50.0.7/16", "AddressIPv6": "", "MacAddress": ""}

WITH_ARGUMENTS = {
    "NetworkDriver.CreateNetwork": {"NetworkID": NET, "IPv4Data": V4, "IPv6Data": []},
    "NetworkDriver.AllocateNetwork": {"NetworkID": NET, "Options": {}, "IPv4Data": V4},
    "NetworkDriver.CreateEndpoint": {"NetworkID": NET, "EndpointID": EP, "Interface": INTERFACE},
    "NetworkDriver.EndpointOperInfo": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.Join": {"NetworkID": NET, "EndpointID": EP, "SandboxKey": SANDBOX},
    "NetworkDriver.ProgramExternalConnectivity": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.RevokeExternalConnectivity": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.Leave": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.DeleteEndpoint": {"NetworkID": NET, "EndpointID": EP},
    "NetworkDriver.DeleteNetwork": {"NetworkID": NET},
    "NetworkDriver.FreeNetwork": {"NetworkID": NET},
    "NetworkDriver.GwAllocCheck": {"Options": {}},
    "NetworkDriver.DiscoverNew": {"DiscoveryType": 1, "DiscoveryData": {}},
    "NetworkDriver.DiscoverDelete": {"DiscoveryType": 1, "DiscoveryData": {}},
    "IpamDriver.RequestPool": {"AddressSpace": "slim-local", "Pool": "10.50.0.0/16",
                               "SubPool": "", "Options": None, "V6": False},
    "IpamDriver.ReleasePool": {"PoolID": "slim-local/10.50.0.0/16"},
    "IpamDriver.RequestAddress": {"PoolID": "slim-local/10.50.0.0/16", "Address": "10.50.0.9",
                                  "Options": None},
    "IpamDriver.ReleaseAddress": {"PoolID": "slim-local/10.50.0.0/16", "Address": "10.50.0.9"},
}
WITHOUT_ARGUMENTS = ("Plugin.Activate", "NetworkDriver.GetCapabilities",
                     "IpamDriver.GetCapabilities", "IpamDriver.GetDefaultAddressSpaces")


def network(dockerd: Dockerd, **more: object) -> None:
    dockerd.ok("NetworkDriver.CreateNetwork",
               **{"NetworkID": NET, "Options": None, "IPv4Data": V4, "IPv6Data": [], **more})


def endpoint(dockerd: Dockerd, ep: str = EP, address: str = "10.50.0.7/16",
             **options: object) -> dict:
    return dockerd.ok("NetworkDriver.CreateEndpoint", NetworkID=NET, EndpointID=ep, Options=options,
                      Interface={**INTERFACE, "Address": address})


def join(dockerd: Dockerd, ep: str = EP, sandbox: str = SANDBOX) -> dict:
    return dockerd.ok("NetworkDriver.Join", NetworkID=NET, EndpointID=ep, SandboxKey=sandbox,
                      Options={})
