"""Which inputs a version takes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_worlds import features, request, versions

from mcp.cluster.router.features import Features, Tensor, measured
from mcp.cluster.router.models import TensorSpec, VersionRecord, candidate


def fits(features: Features, record: VersionRecord) -> bool:
    """The oracle: limits first, then inputs by name, axis by axis."""
    limits = (
        (features.length, record.length_max),
        (features.batch, record.batch_max),
        (features.size, record.size_max),
    )
    if any(value is not None and limit is not None and value > limit for value, limit in limits):
        return False
    if features.tensors is None or record.inputs == ():
        return True
    given = list(features.tensors)
    if len(record.inputs) == 1 and len(given) == 1 and given[0].name == "":
        given[0] = Tensor(record.inputs[0].name, given[0].dtype, given[0].shape, given[0].size)
    if sorted(tensor.name for tensor in given) != sorted(spec.name for spec in record.inputs):
        return False
    return all(one(tensor, spec) for tensor in given for spec in record.inputs if spec.name == tensor.name)


def one(tensor: Tensor, spec: TensorSpec) -> bool:
    if tensor.dtype != spec.dtype:
        return False
    shape = tensor.shape
    if shape is None:
        shape = (1,) * (1 if spec.shape is None else len(spec.shape))
    if spec.shape is None:
        return True
    return len(shape) == len(spec.shape) and all(
        size == declared
        for size, declared in zip(shape, spec.shape, strict=True)
        if isinstance(declared, int) and declared >= 0
    )


@settings(max_examples=60)
@given(features(), versions("1"))
def test_what_fits_is_what_is_declared(features: Features, record: VersionRecord) -> None:
    misfit = candidate("a", record).acceptance.misfit(features)
    assert (misfit is None) is fits(features, record)


@given(st.data(), versions("1"))
def test_what_is_nearly_as_declared_fits_if_it_is(data: st.DataObject, record: VersionRecord) -> None:
    """Inputs made from what is declared, in which at most one thing is another."""
    given = [near(data, spec) for spec in record.inputs]
    if given and data.draw(st.booleans()):
        given.append(given[0])
    features = Features("a", tuple(data.draw(st.permutations(given))))
    misfit = candidate("a", record).acceptance.misfit(features)
    assert (misfit is None) is fits(features, record)


def near(data: st.DataObject, spec: TensorSpec) -> Tensor:
    shape = tuple(
        size if isinstance(size, int) and size >= 0 else data.draw(st.integers(0, 3))
        for size in spec.shape or ()
    )
    change = data.draw(st.sampled_from(["nothing"] * 3 + ["name", "dtype", "rank", "size", "text"]))
    if change == "rank":
        shape += (1,)
    elif change == "size" and shape:
        shape = (shape[0] + 1, *shape[1:])
    return Tensor(
        "" if change == "name" else spec.name,
        "BOOL" if change == "dtype" else spec.dtype,
        None if change == "text" else shape,
        8,
    )


@pytest.mark.parametrize(
    ("declared", "shape", "fitting"),
    [
        ((None, 3), (7, 3), True),
        ((-1, "n", 3), (1, 2, 3), True),
        ((2, 3), (2, 4), False),
        ((2,), (2, 1), False),
        ((2, 1), (2,), False),
        ((), (), True),
        (None, (1, 2, 3), True),
        ((None, 1), None, True),
        ((None, 2), None, False),
        ((0,), (0,), True),
    ],
)
def test_a_shape_fits_axis_by_axis(declared: Any, shape: Any, fitting: bool) -> None:
    spec = TensorSpec("text", "BYTES", declared)
    acceptance = candidate("a", VersionRecord(version="1", inputs=(spec,))).acceptance
    assert (acceptance.misfit(request("a", Tensor("text", "BYTES", shape, 1))) is None) is fitting
    assert (acceptance.misfit(request("a", Tensor("", "BYTES", shape, 1))) is None) is fitting


def test_two_inputs_of_one_name_are_not_the_two_that_are_declared() -> None:
    inputs = tuple(TensorSpec(name, "INT64", (None,)) for name in ("ids", "mask"))
    acceptance = candidate("a", VersionRecord(version="1", inputs=inputs)).acceptance
    ids, mask = (Tensor(name, "INT64", (1,), 8) for name in ("ids", "mask"))
    assert acceptance.misfit(request("a", mask, ids)) is None
    assert acceptance.misfit(request("a", ids, ids))
    assert acceptance.misfit(request("a", ids))
    assert acceptance.misfit(request("a", ids, Tensor("", "INT64", (1,), 8)))


def test_a_misfit_says_what_is_taken_and_what_came() -> None:
    inputs = (TensorSpec("ids", "INT64", ("batch", 128)), TensorSpec("mask", "BOOL", None))
    acceptance = candidate("a", VersionRecord(version="1", inputs=inputs)).acceptance
    misfit = acceptance.misfit(request("a", Tensor("ids", "INT64", (1, 64), 512)))
    assert misfit == "it takes ids INT64[batch, 128], mask BOOL of any rank, and got ids INT64[1, 64]"


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"length_max": 9}, "a length of 10 elements is over its length_max=9"),
        ({"batch_max": 1}, "a batch of 2 rows is over its batch_max=1"),
        ({"size_max": 159}, "a size of 160 bytes is over its size_max=159"),
    ],
)
def test_a_limit_is_named(limit: dict[str, int], said: str) -> None:
    acceptance = candidate("a", VersionRecord(version="1", **limit)).acceptance  # type: ignore[arg-type]
    assert acceptance.misfit(request("a", Tensor("ids", "INT64", (2, 10), 160))) == said


def test_an_account_of_hostile_inputs_is_short() -> None:
    inputs = tuple(TensorSpec(f"{number}" * 200, "INT64", (None,)) for number in range(200))
    acceptance = candidate("a", VersionRecord(version="1", inputs=inputs)).acceptance
    many = tuple(Tensor(f"{number}" * 200, "X" * 1000, (1,) * 16, 8) for number in range(256))
    assert len(acceptance.misfit(request("a", *many)) or "") < 1000


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(2, 7)], (7, 2)),
        ([(2, 7, 64)], (7, 2)),
        ([(1, 3, 224, 224)], (None, 1)),
        ([(5,)], (None, 5)),
        ([()], (None, None)),
        ([None], (None, None)),
        ([(2, 7), (3, 9), (4,)], (9, 4)),
    ],
)
def test_length_and_batch_are_read_off_the_shapes(
    shapes: list[tuple[int, ...]], expected: tuple[int, int]
) -> None:
    length, batch, size = measured(Tensor("x", "INT64", shape, 8) for shape in shapes)
    assert (length, batch) == expected
    assert size == 8 * len(shapes)
