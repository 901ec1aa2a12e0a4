"""etcd as people run it, three members on this machine, to be compared with."""

from typing import Final

from simulations.benchmarks.needs import ETCD, modules

ETCD_NEEDS: Final = (ETCD, *modules("grpc"))
