"""A node's settings: flag before environment before file before default, and no mistake passes in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from mcp.cli.serve import node_config, serve
from mcp.errors import ConfigInvalid
from mcp.net.polling import POLL_S
from mcp.node import NodeConfig

PEERS = "n1=127.0.0.1:7401,n2=127.0.0.1:7402,n3=127.0.0.1:7403"


def config(*arguments: str) -> NodeConfig:
    """What the arguments mean to a node, with everything parsed as it is for real."""
    parameters: dict[str, Any] = serve.make_context("serve", list(arguments)).params
    for name in ("log_level", "log_format", "stop_on_eof", "http", "grpc", "http_control"):
        del parameters[name]
    return node_config(**parameters)


@pytest.fixture(autouse=True)
def no_files_of_this_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_flag_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert config().threads == 1
    file = tmp_path / "node.toml"
    file.write_text("threads = 2\nworkers = 5\n")
    assert config("--config", str(file)).threads == 2
    monkeypatch.setenv("MCP_THREADS", "3")
    assert config("--config", str(file)).threads == 3
    assert config("--config", str(file), "--threads", "4").threads == 4
    assert config("--threads", "4", "--config", str(file)).workers == 5


def test_the_file_itself_can_be_named_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "node.toml").write_text('node_id = "from-file"\n')
    monkeypatch.setenv("MCP_CONFIG", str(tmp_path / "node.toml"))
    assert config().node_id == "from-file"


def test_a_file_can_hold_every_kind_of_setting(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    file = tmp_path / "node.toml"
    file.write_text(
        f"""
        node_id = "n2"
        listen = ["127.0.0.1:7402", "unix:///tmp/n2.sock"]
        data_dir = "{tmp_path}/data"
        cluster_id = "blue"
        cluster_key_file = "{tmp_path}/key"
        providers = ["cuda", "cpu"]
        allow_provider_fallback = true
        device_memory_bytes_max = 1_000_000_000
        election_timeout = [0.3, 0.6]
        heartbeat = 0.04
        [peers]
        n1 = "127.0.0.1:7401"
        n2 = "127.0.0.1:7402"
        """
    )
    found = config("--config", str(file))
    assert found == NodeConfig(
        node_id="n2",
        listen=("127.0.0.1:7402", "unix:///tmp/n2.sock"),
        voters={"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7402"},
        data_dir=tmp_path / "data",
        cluster_id="blue",
        cluster_key=b"0123456789abcdef",
        providers=("cuda", "cpu"),
        allow_provider_fallback=True,
        device_memory_bytes_max=1_000_000_000,
        election_timeout_min_s=0.3,
        election_timeout_max_s=0.6,
        heartbeat_s=0.04,
    )


def test_a_voter_listens_where_the_others_look_for_it() -> None:
    found = config("--node-id", "n2", "--peers", PEERS)
    assert found.listen == ("127.0.0.1:7402",)
    assert found.engine == "raft"
    assert found.peers == {"n1": "127.0.0.1:7401", "n3": "127.0.0.1:7403"}
    assert found.data_dir == Path("mcp-data/n2")


def test_a_node_without_peers_is_one_process_alone() -> None:
    found = config("--node-id", "n1")
    assert (found.engine, found.listen, found.voters) == ("solo", ("127.0.0.1:7400",), {})


def test_the_host_s_name_is_a_node_id() -> None:
    assert config().node_id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thread = 2", "'thread' is no setting"),
        ("config = 'other.toml'", "'config' is no setting"),
        ("threads = ", "not TOML"),
        ("node_id = '-'", "is no node id"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    with pytest.raises(ConfigInvalid, match=words):
        config("--config", str(tmp_path / "node.toml"))


def test_one_address_for_two_voters_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="have one address"):
        config("--node-id", "n1", "--peers", "n1=127.0.0.1:7401,n2=127.0.0.1:7401")


def test_a_node_that_joins_has_no_voters_and_the_raft_engine(tmp_path: Path) -> None:
    joining = config(
        "--node-id",
        "n4",
        "--listen",
        "10.0.0.4:7400",
        "--join",
        "10.0.0.1:7400,10.0.0.2:7400",
        "--cluster-key-file",
        str(key(tmp_path)),
        "--observer",
    )
    assert (joining.engine, joining.voters) == ("raft", {})
    assert (joining.join, joining.observer) == (("10.0.0.1:7400", "10.0.0.2:7400"), True)
    with pytest.raises(ConfigInvalid, match="not both"):
        config("--node-id", "n1", "--peers", PEERS, "--join", "127.0.0.1:7402")


def key(folder: Path) -> Path:
    file = folder / "key"
    file.write_text("0123456789abcdef")
    return file


def test_bytes_that_are_no_text_are_no_file(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="not TOML"):
        config("--config", str(tmp_path / "node.toml"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--peers", "n1"), "is not id=address"),
        (("--peers", "n1=a:1,n1=b:2"), "there twice"),
        (("--election-timeout", "fast"), "range of seconds"),
        (("--threads", "0"), "x>=1"),
        (("--engine", "paxos"), "raft"),
    ],
)
def test_a_flag_that_cannot_be_read_is_refused(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        config(*arguments)


@pytest.mark.parametrize("arguments", [("--heartbeat", "1e-9"), ("--election-timeout", "1-inf")])
def test_times_that_no_cluster_could_keep_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigInvalid, match=r"a heartbeat is 0.001 s at least, and a timeout 3600 s at most"):
        config(*arguments)


def test_the_key_comes_from_a_file_or_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert config().cluster_key is None
    monkeypatch.setenv("MCP_CLUSTER_KEY", "key-of-the-environment")
    assert config().cluster_key == b"key-of-the-environment"
    (tmp_path / "key").write_bytes(b"key-of-the-file-here\r\n")
    assert config("--cluster-key-file", str(tmp_path / "key")).cluster_key == b"key-of-the-file-here"


@pytest.mark.parametrize(("content", "words"), [(b" \n", "holds no key"), (bytes(5000), "hardly a key")])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigInvalid, match=words):
        config("--cluster-key-file", str(tmp_path / "key"))


def test_there_is_no_flag_that_would_show_the_key_to_other_users() -> None:
    assert not any("--cluster-key" in option.opts for option in serve.params)


def test_how_long_the_next_request_is_looked_for_is_a_choice(tmp_path: Path) -> None:
    assert config("--data-dir", str(tmp_path)).poll_s == POLL_S
    assert config("--data-dir", str(tmp_path), "--poll-us", "0").poll_s == 0
    with pytest.raises(ConfigInvalid, match="poll_s"):
        replace(config("--data-dir", str(tmp_path)), poll_s=1.0)


def test_what_becomes_of_memory_that_runs_took_is_a_choice_of_three(tmp_path: Path) -> None:
    assert config("--data-dir", str(tmp_path)).memory_arena == "shrink"
    assert config("--data-dir", str(tmp_path), "--memory-arena", "off").memory_arena == "off"
    with pytest.raises(ConfigInvalid, match="shrink, keep, off"):
        replace(config("--data-dir", str(tmp_path)), memory_arena="small")


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (("--listen", "7000"), "listen"),
        (("--node-id", "n1", "--peers", "n1=7000"), "listen"),
        (("--join", "7000"), "join"),
        (("--node-id", "n1", "--peers", PEERS, "--advertise", "7000"), "advertise"),
    ],
)
def test_a_port_without_a_host_is_diagnosed_as_such(arguments: tuple[str, ...], setting: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{setting}: '7000' is a port alone, .* write 127.0.0.1:7000 "):
        config(*arguments)
