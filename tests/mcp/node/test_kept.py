"""Answers that nothing is run for: what is the same request, what is kept, what may be declared."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import numpy as np
import pytest

from mcp.errors import ConfigInvalid
from mcp.flow.config import from_plain
from mcp.node.kept import (
    GIVEN_BYTES_MAX,
    QUESTION_BYTES_MAX,
    STACKED_MAX,
    Answer,
    KeptAnswers,
    fits,
    fixed_answer,
    is_asked,
    joined,
    misfit,
    parted,
    questions,
)
from mcp.state.models import ModelVersion
from mcp.wire.tensors import pack_all, unpack_all

X = np.arange(6, dtype=np.float32).reshape(3, 2)


def asked(arrays: dict[str, Any], **more: Any) -> tuple[dict[str, Any], list[memoryview]]:
    specs, segments = pack_all(arrays)
    return {"inputs": specs, **more}, segments


def digest(arrays: dict[str, Any], **more: Any) -> bytes:
    (found,) = questions(*asked(arrays, **more)) or [b""]
    return found


def version(name: str = "m", outputs: Any = (), label: str = "1", sha: str = "d1") -> ModelVersion:
    specs = msgpack.packb([[], list(outputs)])
    return ModelVersion(name, label, sha, 1, None, None, (), specs, 7, ())


def test_the_same_request_is_the_same_and_any_other_is_another() -> None:
    one = digest({"x": X, "y": np.array([1])})
    assert one == digest({"y": np.array([1]), "x": X.copy()})
    others = [
        digest({"x": X + 1, "y": np.array([1])}),
        digest({"x": X.reshape(2, 3), "y": np.array([1])}),
        digest({"x": X.view(np.int32), "y": np.array([1])}),
        digest({"x": X, "z": np.array([1])}),
        digest({"x": X}),
        digest({"x": X, "y": np.array([1])}, outputs=["a"]),
        digest({"x": X, "y": np.array([1])}, outputs=["a", "b"]),
        digest({"x": np.array(["a", "bc"], object)}),
        digest({"x": np.array(["ab", "c"], object)}),
    ]
    assert len({one, *others}) == len(others) + 1
    (text,) = questions({"data_chunk": "a"}, []) or [b""]
    assert text not in (one, (questions({"data_chunk": "b"}, []) or [b""])[0])


def test_of_joined_inferences_each_is_looked_for_by_itself() -> None:
    assert questions(*asked({"x": X}, stacked=[1, 2])) == [digest({"x": X[:1]}), digest({"x": X[1:]})]
    for rows in ([1, 1], [], [3, 0], [-1, 4], "x", [1.0, 2.0], [True, 2]):
        assert questions(*asked({"x": X}, stacked=rows)) is None
    assert questions(*asked({"x": np.array(["a", "b"], object)}, stacked=[1, 1])) is None


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        [],
        {},
        [1],
        [{"name": "x"}],
        [{"name": "x", "dtype": "FP32", "shape": [1], "segment": 5}],
        [{"name": "x", "dtype": "FP32", "shape": [-1], "segment": 0}],
        [{"name": "x", "dtype": "FP32", "shape": 3, "segment": 0}],
    ],
)
def test_of_what_is_no_request_nothing_is_kept(inputs: Any) -> None:
    assert questions({"inputs": inputs}, [memoryview(b"abcd")]) is None


def test_of_a_large_request_nothing_is_kept() -> None:
    assert questions(*asked({"x": np.zeros(QUESTION_BYTES_MAX, np.uint8)})) is not None
    assert questions(*asked({"x": np.zeros(QUESTION_BYTES_MAX + 1, np.uint8)})) is None


def test_an_answer_to_several_is_taken_apart_and_put_together() -> None:
    outputs = {"a": X, "b": np.arange(3)}
    specs, segments = pack_all(outputs)
    parts = parted(specs, segments, [1, 2])
    assert parts is not None
    assert [unpack_all(each.specs, each.segments)["a"].tolist() for each in parts] == [
        X[:1].tolist(),
        X[1:].tolist(),
    ]
    whole = joined(parts, [1, 2])
    assert whole is not None
    back = unpack_all(whole.specs, whole.segments)
    assert {name: array.tolist() for name, array in back.items()} == {
        name: array.tolist() for name, array in outputs.items()
    }
    assert joined(parts, [2, 1]) is None
    assert joined(parts, [1, 2, 1]) is None
    assert joined(parts, None) is parts[0]
    assert parted(*pack_all({"a": X, "b": np.arange(2)}), [1, 2]) is None
    assert parted(*pack_all({"a": np.array(["x", "y", "z"], object)}), [1, 2]) is None


def config(**of_cache: int) -> Any:
    cached = {"fallbacks": [{"kind": "cached", "max_age_s": 10}]}
    return from_plain({"models": {"m": cached, "n": cached}, **({"cache": of_cache} if of_cache else {})})


def models(*there: ModelVersion) -> Any:
    by_name = [SimpleNamespace(name=each.name, versions={each.version: each}) for each in there]
    return SimpleNamespace(revision=1, all=lambda: by_name)


def test_answers_are_found_for_as_long_as_their_version_is_deployed_and_declared() -> None:
    m, n = version(), version("n")
    state = SimpleNamespace(models=models(m, n))
    kept = KeptAnswers(config(), cast(Any, state))
    request, specs_segments = asked({"x": X}), pack_all({"y": X * 2})
    for each in (m, n, version("other")):
        kept.keep(each, *request, *specs_segments, now=100.0)
    assert len(kept) == 2
    found = kept.find(m, *request, max_age_s=10.0, now=103.0)
    assert found is not None
    assert (found.age_s, unpack_all(found.answer.specs, found.answer.segments)["y"].tolist()) == (
        3.0,
        (X * 2).tolist(),
    )
    assert kept.find(m, *request, max_age_s=2.0, now=103.0) is None
    assert kept.find(version(label="2", sha="d2"), *request, max_age_s=10.0, now=103.0) is None
    state.models = models(n)
    state.models.revision = 2
    kept.look()
    assert len(kept) == 1
    kept.configure(from_plain({}))
    assert len(kept) == 0


def test_of_joined_inferences_the_age_is_that_of_the_oldest_and_all_of_them_are_needed() -> None:
    m = version()
    kept = KeptAnswers(config(), cast(Any, SimpleNamespace(models=models(m))))
    kept.keep(m, *asked({"x": X[:1]}), *pack_all({"y": X[:1] * 2}), now=1.0)
    both = asked({"x": X}, stacked=[1, 2])
    assert kept.find(m, *both, max_age_s=10.0, now=5.0) is None
    kept.keep(m, *asked({"x": X[1:]}), *pack_all({"y": X[1:] * 2}), now=3.0)
    found = kept.find(m, *both, max_age_s=10.0, now=5.0)
    assert found is not None
    assert found.age_s == 4.0
    assert unpack_all(found.answer.specs, found.answer.segments)["y"].tolist() == (X * 2).tolist()


def test_what_is_kept_is_bounded() -> None:
    m = version()
    kept = KeptAnswers(config(entries_max=2, bytes_max=1500), cast(Any, SimpleNamespace(models=models(m))))
    for number in range(5):
        kept.keep(m, *asked({"x": X + number}), *pack_all({"y": X}), now=1.0)
    assert len(kept) == 2
    kept.keep(m, *asked({"x": X - 1}), *pack_all({"y": np.zeros(1501, np.uint8)}), now=1.0)
    assert len(kept) == 2


def test_what_is_kept_does_not_hold_what_it_is_a_part_of() -> None:
    m = version()
    kept = KeptAnswers(config(), cast(Any, SimpleNamespace(models=models(m))))
    large = np.zeros((1000, 2), np.float32)
    kept.keep(m, *asked({"x": X}), *pack_all({"y": large[:3]}), now=1.0)
    found = kept.find(m, *asked({"x": X}), max_age_s=10.0, now=1.0)
    assert found is not None
    assert [type(segment) for segment in found.answer.segments] == [bytes]


OUTPUTS = [
    {"name": "label", "dtype": "INT64", "shape": [None]},
    {"name": "p", "dtype": "FP32", "shape": ["batch", 2]},
]
DECLARED = {
    "label": {"dtype": "INT64", "shape": [1], "data": [-1]},
    "p": {"dtype": "FP32", "shape": [1, 2], "data": [0.5, 0.5]},
}


def changed(name: str, **fields: Any) -> str:
    return json.dumps({**DECLARED, name: {**DECLARED.get(name, {}), **fields}})


def test_a_declared_answer_is_what_the_model_could_give() -> None:
    text = json.dumps(DECLARED)
    answer = fixed_answer(text)
    assert misfit(text, version(outputs=OUTPUTS)) is None
    assert unpack_all(answer.specs, answer.segments)["label"].tolist() == [-1]
    some = answer.only(["p"])
    assert some is not None
    assert list(unpack_all(some.specs, some.segments)) == ["p"]
    assert answer.only(["p", "q"]) is None
    assert answer.only(None) is answer
    for wrong, says in [
        (json.dumps({"label": DECLARED["label"]}), "it has the outputs label, and the model label, p"),
        (changed("label", dtype="INT32"), "of type INT32, and the model's of INT64"),
        (changed("p", shape=[2, 1]), r"the shape \[2, 1\], and the model's \['batch', 2\]"),
        (changed("p", shape=[2]), r"the shape \[2\]"),
    ]:
        told = misfit(wrong, version(outputs=OUTPUTS))
        assert told is not None
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(told)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sorry", "it is no JSON"),
        ("[" * 60_000, "it is no JSON"),
        ("[]", "an object of 1 to"),
        ("{}", "an object of 1 to"),
        ('{"a": 1}', "output 'a' is an object of \"dtype\""),
        ('{"a": {"dtype": "FP32", "shape": [1]}}', "output 'a' is an object of \"dtype\""),
        ('{"a": {"dtype": "FP31", "shape": [1], "data": [1]}}', "output 'a': \"dtype\" must be one of"),
        ('{"a": {"dtype": "FP32", "shape": [2], "data": [1]}}', "must hold 2 elements"),
        ('{"a": {"dtype": "INT64", "shape": [1], "data": [1.5]}}', "must hold integers"),
        ('{"a": {"dtype": "FP32", "shape": [1], "data": [NaN]}}', "it is no JSON"),
    ],
)
def test_a_declared_answer_that_is_none_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        fixed_answer(text)


def test_of_more_inferences_than_any_client_joins_nothing_is_kept_or_given() -> None:
    nothing = {"x": np.zeros((STACKED_MAX + 1, 0), np.float32)}
    assert questions(*asked(nothing, stacked=[1] * (STACKED_MAX + 1))) is None
    assert len(questions(*asked({"x": nothing["x"][1:]}, stacked=[1] * STACKED_MAX)) or ()) == STACKED_MAX
    answer = fixed_answer(json.dumps({"y": {"dtype": "FP32", "shape": [1, 1], "data": [0.5]}}))
    assert joined([answer] * (STACKED_MAX + 1), [1] * (STACKED_MAX + 1)) is None
    large = Answer(answer.specs, (bytes(GIVEN_BYTES_MAX // 2 + 1),))
    assert joined([large, large], [1, 1]) is None


def test_of_a_long_text_nothing_is_kept() -> None:
    assert questions({"data_chunk": "a" * QUESTION_BYTES_MAX}, ()) is not None
    for text in ("a" * (QUESTION_BYTES_MAX + 1), "é" * QUESTION_BYTES_MAX, ""):
        assert questions({"data_chunk": text}, ()) is None


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"inputs": "junk"},
        {"inputs": []},
        {"data_chunk": 5},
        {"data_chunk": "a", "stacked": [1.0]},
        {"data_chunk": "a", "stacked": [True]},
        {"data_chunk": "a", "stacked": []},
    ],
)
def test_what_is_no_request_is_given_nothing(payload: dict[str, Any]) -> None:
    assert not is_asked(payload, ())
    assert is_asked({"data_chunk": "a"}, ())
    assert is_asked(*asked({"x": X}, stacked=[1, 2]))


def test_another_model_is_asked_only_for_what_it_declares() -> None:
    inputs = [{"name": "x", "dtype": "FP32", "shape": ["n", 2]}]
    takes = ModelVersion("m", "1", "d", 1, None, None, (), msgpack.packb([inputs, []]), 7, ())
    assert fits(takes, *asked({"x": X}))
    assert fits(takes, {"data_chunk": "a"}, ())
    for other in ({"y": X}, {"x": X, "y": X}, {"x": X.astype(np.float64)}, {"x": X[:, :1]}, {"x": X[0]}):
        assert not fits(takes, *asked(other))
    assert not fits(takes, {"inputs": "junk"}, ())


def test_a_fixed_answer_stands_for_joined_inferences_of_as_many_rows() -> None:
    answer = fixed_answer(json.dumps(DECLARED))
    both = joined([answer, answer], [1, 1])
    assert isinstance(both, Answer)
    assert unpack_all(both.specs, both.segments)["label"].tolist() == [-1, -1]
    assert joined([answer, answer], [1, 2]) is None
