"""A client of etcd's gRPC API (its documentation, "API reference": KV, Maintenance): what is needed of it."""

from __future__ import annotations

from typing import Final, Self

import grpc

from simulations.benchmarks.protobuf import blob, fields

_PUT: Final = "/etcdserverpb.KV/Put"
_RANGE: Final = "/etcdserverpb.KV/Range"
_STATUS: Final = "/etcdserverpb.Maintenance/Status"


class EtcdClient:
    """One channel to one member, for any number of callers."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._put = self._channel.unary_unary(_PUT)
        self._range = self._channel.unary_unary(_RANGE)
        self._status = self._channel.unary_unary(_STATUS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._channel.close()

    async def put(self, key: str, value: bytes, timeout_s: float = 20.0) -> None:
        """Write a key, durably. Raises what gRPC raises."""
        await self._put(blob(1, key.encode()) + blob(2, value), timeout=timeout_s)

    async def versions(self, prefix: str) -> dict[str, int]:
        """How often each key that starts with ``prefix`` was written since it was made; linearizable."""
        last = prefix.encode()
        request = blob(1, last) + blob(2, last[:-1] + bytes([last[-1] + 1]))
        return versions_in(await self._range(request, timeout=20.0))

    async def leads(self, timeout_s: float = 1.0) -> bool:
        """Whether this member leads."""
        answer = dict(fields(await self._status(b"", timeout=timeout_s)))
        header = answer[1]
        assert isinstance(header, bytes)
        return dict(fields(header)).get(2) == answer.get(4, 0)


def versions_in(answer: bytes) -> dict[str, int]:
    """The versions in a ``RangeResponse``: ``kvs`` is field 2, in it ``key`` 1 and ``version`` 4."""
    found = {}
    for number, value in fields(answer):
        if number == 2 and isinstance(value, bytes):
            entry = dict(fields(value))
            key, version = entry[1], entry[4]
            assert isinstance(key, bytes)
            assert isinstance(version, int)
            found[key.decode()] = version
    return found
