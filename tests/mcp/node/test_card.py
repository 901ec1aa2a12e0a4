"""What a node says of itself fits, and what others read in it is bounded and of the right types."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp.cluster.gossip.limits import CARD_BYTES_MAX, CARD_INLINE_BYTES_MAX, LOAD_BYTES_MAX
from mcp.cluster.gossip.updates import State
from mcp.cluster.gossip.view import Member
from mcp.cluster.router.nodes import NodeState, View
from mcp.errors import ConfigInvalid
from mcp.node.card import make_card, make_load, node_record, takes_part
from mcp.node.config import LABELS_MAX, NodeConfig
from mcp.node.gauges import Capacity, Sample, SystemGauges
from mcp.wire.codec import encode_map

LABELS = {f"{n:063}": "v" * 63 for n in range(LABELS_MAX)}


def card(models: dict[str, int], labels: dict[str, str] | None = None) -> dict[str, Any]:
    return make_card(
        models=models,
        providers=("cuda", "cpu"),
        capacity=Capacity(16, 64 * 1024**3),
        workers=3,
        labels=labels or {},
        standing="voter",
        version="0.1.0",
    )


def member(
    card: dict[str, Any] | None = None, load: dict[str, Any] | None = None, state: State = State.ALIVE
) -> Member:
    return Member("n1", "10.0.0.1:7400", state, 1, 1, card or {}, load or {}, 0.0)


def nothing(_key: str) -> None:
    return None


@given(
    st.dictionaries(st.text(min_size=1, max_size=200), st.integers(0, 2**53), max_size=60),
    st.sampled_from([{}, {"gpu": ""}, LABELS]),
)
def test_a_card_fits_and_leaves_out_no_more_models_than_it_has_to(
    models: dict[str, int], labels: dict[str, str]
) -> None:
    made = card(models, labels)
    size = len(encode_map(made))
    assert size <= CARD_BYTES_MAX
    left_out = made.get("models_left_out", 0)
    assert made["models"] == dict(sorted(models.items())[: len(models) - left_out])
    if left_out:
        following = sorted(models)[len(models) - left_out]
        assert size + len(following.encode()) + 64 > CARD_BYTES_MAX


def test_many_models_are_left_out_from_the_end_and_it_says_how_many() -> None:
    made = card({f"model-{n:04}@1": n for n in range(1000)})
    assert made["models_left_out"] == 1000 - len(made["models"]) > 0
    assert list(made["models"])[:2] == ["model-0000@1", "model-0001@1"]


def test_a_usual_card_travels_in_datagrams() -> None:
    made = card({f"model-{n}@1": 10_000 + n for n in range(15)}, {"gpu": "", "zone": "a"})
    assert len(encode_map(made)) <= CARD_INLINE_BYTES_MAX


@given(st.floats(0, 1), st.integers(0, 2**63), st.integers(0, 2**63), st.integers(0, 10**12))
def test_a_load_fits_whatever_is_measured(cpu: float, memory: int, device: int, index: int) -> None:
    load = make_load(Sample(cpu, memory, device), queue=10**12, running=10**12, applied_index=index)
    assert len(encode_map(load)) <= LOAD_BYTES_MAX
    assert load["cpu"] in range(101)
    assert load["at"] == index


def test_what_cannot_be_measured_is_not_said() -> None:
    assert make_load(Sample(), queue=1, running=2, applied_index=3) == {"queue": 1, "run": 2, "at": 3}
    assert "memory_mib" not in make_card(
        models={},
        providers=(),
        capacity=Capacity(2),
        workers=1,
        labels={},
        standing="voter",
        version="0",
    )


def test_the_router_reads_what_was_said() -> None:
    load = make_load(Sample(0.5, 3 * 1024**3, 7 * 1024**2), queue=4, running=2, applied_index=90)
    record = node_record(member(card({"digits@1": 17, "later@2": 95}, {"gpu": ""}), load), nothing)
    assert (record.node, record.address, record.state) == ("n1", "10.0.0.1:7400", NodeState.ALIVE)
    assert record.ready == {"digits@1": 90, "later@2": 95}
    assert record.providers == ("cuda", "cpu")
    assert record.memory_free_bytes == 3 * 1024**3
    assert record.labels == {"gpu": ""}
    assert record.queue == 4
    assert record.load == {"cpu": 50.0, "dev": 7.0, "run": 2.0, "workers": 3.0, "memory_mib": 65536.0}
    assert node_record(member(state=State.SUSPECT), nothing).state is NodeState.SUSPECT


def test_a_version_that_was_deployed_again_is_not_ready_by_an_older_card() -> None:
    old = member(card({"digits@1": 17}), {"at": 90})
    assert node_record(old, {"digits@1": 60}.get).ready == {}
    assert node_record(old, {"digits@1": 17}.get).ready == {"digits@1": 90}


def test_an_outsider_takes_no_part() -> None:
    assert takes_part(member({"standing": "observer"}))
    assert not takes_part(member({"standing": "outsider"}))
    assert not takes_part(member())


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("models", "providers", "labels", "mem", "queue", "at", "cpu", "dev", "run", "standing")


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(FIELDS), plain), st.dictionaries(st.sampled_from(FIELDS), plain))
def test_whatever_a_peer_says_makes_a_record_of_the_right_types(
    said: dict[str, Any], load: dict[str, Any]
) -> None:
    record = node_record(member(said, load), nothing)
    View([record])
    assert all(type(key) is str and type(at) is int and at >= 0 for key, at in record.ready.items())
    assert all(type(text) is str for pair in record.labels.items() for text in pair)
    assert all(type(text) is str for text in record.providers)
    assert record.memory_free_bytes is None or record.memory_free_bytes >= 0
    assert record.queue >= 0
    assert all(type(value) is float and value >= 0 for value in record.load.values())
    takes_part(member(said, load))


def test_this_machine_is_measured() -> None:
    gauges = SystemGauges()
    gauges.open()
    gauges.sample()
    capacity, sample = gauges.capacity(), gauges.sample()
    assert capacity.cores >= 1
    assert capacity.memory_bytes is not None
    assert sample.memory_free_bytes is not None
    assert 0 < sample.memory_free_bytes <= capacity.memory_bytes
    assert sample.cpu is not None
    assert 0 <= sample.cpu <= 1


class Driver:
    """What nvidia-ml-py offers, of two devices that have so much free; there is no driver here."""

    NVMLError = RuntimeError

    def __init__(self, *free: int, fails: str = "") -> None:
        self._free = free
        self._fails = fails

    def _call(self, name: str) -> None:
        if name == self._fails:
            raise RuntimeError("Driver Not Loaded")

    def nvmlInit(self) -> None:  # noqa: N802 - the package's own names
        self._call("init")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._free)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, index: int) -> Any:  # noqa: N802
        self._call("memory")
        return SimpleNamespace(free=self._free[index])


@pytest.mark.parametrize(
    ("driver", "free"),
    [
        (Driver(7, 5), 5),
        (Driver(), None),
        (Driver(7, fails="init"), None),
        (Driver(7, fails="memory"), None),
        (None, None),
    ],
)
def test_of_devices_the_one_with_least_counts_and_without_a_driver_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, free: int | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    gauges = SystemGauges()
    assert gauges.sample().device_memory_free_bytes is None
    gauges.open()
    assert gauges.sample().device_memory_free_bytes == free


@pytest.mark.parametrize(
    ("given_settings", "refusal"),
    [
        ({"labels": {"no spaces": ""}}, "is no label"),
        ({"labels": {"a": "b c"}}, "is no label"),
        ({"labels": {f"l{n}": "" for n in range(LABELS_MAX + 1)}}, "32 at most"),
        ({"broadcast": "10.0.0.255:7400", "engine": "raft"}, "there is no cluster key"),
        ({"broadcast": "127.255.255.255:7400", "engine": "solo"}, "one process"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Any, given_settings: dict[str, Any], refusal: str
) -> None:
    with pytest.raises(ConfigInvalid, match=refusal):
        NodeConfig("n1", tmp_path, **{"engine": "solo", **given_settings})
