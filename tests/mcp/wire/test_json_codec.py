"""Messages in JSON."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp import errors
from mcp.causality.vector import VersionVector
from mcp.wire.json_codec import JSON_BYTES_MAX, message_from_json, message_to_json
from mcp.wire.messages import DEFAULT_TTL, EMPTY_VECTOR, Message, Ttl
from mcp.wire.version import negotiate_version

EXAMPLES = Path(__file__).parents[3] / "examples"
BASE = {"mcp_version": "1.0", "type": "T", "payload": {}}

texts = st.text(st.characters(codec="utf-8"), max_size=20)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(texts.filter(lambda key: key != "$bytes"), plain, max_size=4))
def test_what_is_written_is_read(payload):
    message = Message("T", payload, "i", "t", VersionVector.from_mapping({"log": 9}), Ttl(1, 2))
    assert message_from_json(message_to_json(message), new_id="unused") == message


@pytest.mark.parametrize("read", [Path.read_text, Path.read_bytes])
def test_the_example_is_accepted_as_it_stands(read):
    message = message_from_json(read(EXAMPLES / "infer_request.json"), new_id="fresh")
    assert message == Message(
        "INFER_REQUEST",
        {"model_hint": "glm-large", "data_chunk": "用户输入文本分片", "timeout_ms": 3000},
        "fresh",
        "req-7a8b9c0d",
        EMPTY_VECTOR,
        DEFAULT_TTL,
    )


def test_an_id_that_is_there_is_kept():
    assert message_from_json(json.dumps({**BASE, "id": "mine"}), new_id="fresh").id == "mine"


def test_unknown_fields_are_ignored():
    assert message_from_json(json.dumps({**BASE, "later": {"a": [1]}}), new_id="i").type == "T"


@pytest.mark.parametrize(("theirs", "spoken"), [("1.0", "1.0"), ("1.7", "1.0")])
def test_the_same_major_version_is_accepted(theirs, spoken):
    assert negotiate_version(theirs) == spoken
    assert message_from_json(json.dumps({**BASE, "mcp_version": theirs}), new_id="i").id == "i"


@pytest.mark.parametrize("theirs", ["2.0", "0.9", "11.0"])
def test_another_major_version_is_refused(theirs):
    with pytest.raises(errors.VersionMismatch, match=theirs) as caught:
        message_from_json(json.dumps({**BASE, "mcp_version": theirs}), new_id="i")
    assert caught.value.details == {"theirs": theirs, "ours": "1.0"}


@pytest.mark.parametrize(
    "version", ["", "1", "1.", "1.0.0", " 1.0", "1.0\n", "one", 1.0, None, ["1.0"], "9" * 99]
)
def test_what_is_no_version_is_refused(version):
    with pytest.raises(errors.InvalidArgument, match="mcp_version"):
        message_from_json(json.dumps({**BASE, "mcp_version": version}), new_id="i")


def body(payload):
    return '{"mcp_version": "1.0", "type": "T", "payload": ' + payload + "}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no JSON"),
        ("[]", "object"),
        ("{}", "mcp_version"),
        ('{"mcp_version": "1.0", "payload": {}}', "type"),
        ('{"mcp_version": "1.0", "type": "T"}', "payload"),
        (body("[]"), "payload"),
        (body('{"a": NaN}'), "NaN"),
        (body('{"a": -Infinity}'), "Infinity"),
        (body('{"a": 1e999}'), "too large"),
        (body('{"a": 1, "a": 2}'), "twice"),
        (body('{"a": 18446744073709551616}'), "64 bits"),
        (body('{"a": ' + "9" * 5000 + "}"), "no JSON"),
        (body('{"a": "\\ud800"}'), "surrogate"),
        (body('{"\\ud800": 1}'), "surrogate"),
        (body('{"a": {"$bytes": 5}}'), "base64"),
        (body('{"a": {"$bytes": "a*b="}}'), "base64"),
        (body('{"a": {"$bytes": "ü"}}'), "base64"),
        (body('{"a":' * 80 + "1" + "}" * 80), "depth_max"),
        (body("[" * 100_000), "no JSON"),
        (body("{} ") + "x", "no JSON"),
        (b'\xff\xfe{"a": 1}', "no JSON"),
        (b"\xef\xbb\xbf" + body("{}").encode(), "no JSON"),
        (" " * (JSON_BYTES_MAX + 1), "json_bytes_max"),
    ],
)
def test_what_is_no_message_is_refused_and_says_why(text, says):
    with pytest.raises(errors.InvalidArgument, match=says):
        message_from_json(text, new_id="i")


@pytest.mark.parametrize(
    "payload", [{"a": float("nan")}, {"a": {"$bytes": "x"}}, {"a": 2**64}, {"a": object()}, {1: 2}]
)
def test_what_json_cannot_carry_is_not_written(payload):
    with pytest.raises(errors.InvalidArgument):
        message_to_json(Message("T", payload, "i"))


def test_bytes_are_base64_under_a_reserved_key():
    written = json.loads(message_to_json(Message("T", {"a": b"\0\xff"}, "i")))
    assert written["payload"] == {"a": {"$bytes": "AP8="}}


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=80) | plain.map(lambda v: json.dumps(v, default=str)))
def test_arbitrary_text_gives_a_message_or_an_error_of_ours(text):
    try:
        assert isinstance(message_from_json(text, new_id="i"), Message)
    except errors.McpError as error:
        assert error.message  # noqa: PT017
