"""Every failure is one line on standard error with a code, and an exit status that says of what kind."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable

import click
import pytest

from mcp import errors
from mcp.cli import exits, root
from mcp.cli.options import traceback_option
from mcp.errors import McpError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = root.run(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def run_failing(monkeypatch: pytest.MonkeyPatch, run: Run) -> Run:
    """Run a command that raises what it is given."""

    def run_failing(error: BaseException, *options: str) -> tuple[int, str, str]:
        @click.command()
        @traceback_option
        def fail() -> None:
            raise error

        module = types.ModuleType("failing_command")
        vars(module)["fail"] = fail
        monkeypatch.setitem(sys.modules, "failing_command", module)
        monkeypatch.setitem(root.COMMANDS, "fail", root.Entry("failing_command", "fail", "fails"))
        return run("fail", *options)

    return run_failing


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (errors.InvalidArgument("give a name"), 2, "mcpctl: INVALID_ARGUMENT: give a name\n"),
        (errors.NoLeader("an election\nis under way"), 3, "mcpctl: NO_LEADER: an election is under way\n"),
        (errors.VersionConflict("version 3"), 4, "mcpctl: VERSION_CONFLICT: version 3\n"),
        (errors.ModelNotFound("no such"), 5, "mcpctl: MODEL_NOT_FOUND: no such\n"),
        (errors.OutcomeUnknown("maybe"), 6, "mcpctl: OUTCOME_UNKNOWN: maybe\n"),
        (errors.StorageCorrupt("bad"), 1, "mcpctl: STORAGE_CORRUPT: bad\n"),
        (FileNotFoundError(2, "No such file", "/x"), 2, "mcpctl: INVALID_ARGUMENT: /x: No such file\n"),
        (click.UsageError("what?"), 2, "mcpctl: INVALID_ARGUMENT: what?; see 'mcpctl fail --help'\n"),
        (ExceptionGroup("", [errors.Busy("full")]), 3, "mcpctl: BUSY: full\n"),
    ],
)
def test_a_failure_is_one_line_and_a_status(
    run_failing: Run, error: Exception, status: int, line: str
) -> None:
    assert run_failing(error) == (status, "", line)


def test_a_defect_is_one_line_too_and_says_how_to_see_more(run_failing: Run) -> None:
    status, out, err = run_failing(ZeroDivisionError("by zero"))
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("mcpctl: INTERNAL: ZeroDivisionError: by zero")
    assert "--traceback" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "--json"),
        ("get", "k", "--json", "--frobnicate"),
        ("stauts", "--json"),
        ("get", "k", "--timeout", "never", "--json"),
        ("get", "k", "--connect", "nowhere", "--json"),
    ],
)
def test_a_failure_is_an_object_too_for_who_asked_for_json(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, err = run(*arguments)
    error = json.loads(out)["error"]
    assert (status, error["code"], error["details"]) == (2, "INVALID_ARGUMENT", {})
    assert err == f"mcpctl: INVALID_ARGUMENT: {error['message']}\n"


@pytest.mark.parametrize("arguments", [("--json", "get", "k"), ("--connect", "h:1", "status"), ("--json",)])
def test_an_option_before_the_command_is_told_where_it_goes(run: Run, arguments: tuple[str, ...]) -> None:
    status, _, err = run(*arguments)
    assert status == 2
    assert f"no option '{arguments[0]}' before the command: write a command's options behind it" in err
    assert "--version" not in err


def test_a_misspelt_option_of_mcpctl_itself_is_told_as_such(run: Run) -> None:
    assert "Did you mean '--version'?" in run("--verison")[2]


def test_json_may_be_asked_for_in_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_JSON", "yes")
    assert json.loads(run("get")[1])["error"]["code"] == "INVALID_ARGUMENT"
    monkeypatch.setenv("MCP_JSON", "0")
    assert run("get")[1] == ""


def test_an_option_s_variable_is_named_after_the_option() -> None:
    variables = {}
    for name in root.COMMANDS:
        command = root.mcpctl.get_command(click.Context(root.mcpctl), name)
        assert command is not None
        for option in command.params:
            if isinstance(option, click.Option):
                variables[name, option.opts[0]] = option.envvar
    assert variables["infer", "--input"] == "MCP_INFER_INPUT"
    assert variables["submit", "--input"] == "MCP_SUBMIT_INPUT"
    assert variables["submit", "--id"] == "MCP_SUBMIT_ID"
    assert variables["deploy", "--deploy-timeout"] == "MCP_DEPLOY_TIMEOUT"
    for (name, flag), variable in variables.items():
        own = flag.removeprefix("--").replace("-", "_").upper()
        assert variable in {f"MCP_{own}", f"MCP_{name.upper()}_{own}"}, (name, flag)


def test_the_traceback_is_shown_when_asked_for(run_failing: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, err = run_failing(errors.Busy("full"), "--traceback")
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith("mcpctl: BUSY: full\n")
    monkeypatch.setenv("MCP_TRACEBACK", "1")
    assert run_failing(errors.Busy("full"))[2].startswith("Traceback")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort(), EOFError()])
def test_an_interrupt_is_quiet(run_failing: Run, error: BaseException) -> None:
    status, out, err = run_failing(error)
    assert (status, out, err.strip()) == (130, "", "")


def codes(kind: type[McpError]) -> set[str]:
    return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))


def test_every_status_in_the_table_belongs_to_a_code_that_exists() -> None:
    assert set(exits._STATUS) <= codes(McpError)


def test_what_may_be_tried_again_is_never_called_a_mistake() -> None:
    def walk(kind: type[McpError]) -> None:
        if kind.retryable:
            assert exits.exit_status(kind.code) in {exits.UNAVAILABLE, exits.OUTCOME_UNKNOWN}, kind
        for child in kind.__subclasses__():
            walk(child)

    walk(McpError)


def test_without_arguments_it_lists_every_command(run: Run) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    for name, entry in root.COMMANDS.items():
        assert f"  {name} " in out
        assert entry.summary.split()[0] in out


@pytest.mark.parametrize("name", sorted(root.COMMANDS))
def test_every_command_explains_itself_and_names_its_environment(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"mcpctl {name} [OPTIONS]" in out
    command = root.mcpctl.get_command(click.Context(root.mcpctl), name)
    assert command is not None
    context = click.Context(command, info_name=name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
            assert parameter.envvar
            assert f"env var: {parameter.envvar}" in " ".join(
                str((parameter.get_help_record(context) or "  ")[1]).split()
            )


def test_the_table_of_commands_tells_what_their_help_tells(run: Run) -> None:
    for name, entry in root.COMMANDS.items():
        command = root.mcpctl.get_command(click.Context(root.mcpctl), name)
        assert command is not None
        assert command.name == name
        assert entry.summary.endswith(".")


@pytest.mark.parametrize(("typed", "meant"), [("stauts", "status"), ("depoly", "deploy"), ("infr", "infer")])
def test_a_mistyped_command_is_answered_with_the_right_one(run: Run, typed: str, meant: str) -> None:
    status, out, err = run(typed)
    assert (status, out) == (2, "")
    assert f"did you mean {meant!r}?" in err


def test_a_wrong_option_names_the_help(run: Run) -> None:
    status, _, err = run("doctor", "--frobnicate")
    assert (status, err.count("\n")) == (2, 1)
    assert "--frobnicate" in err
    assert "see 'mcpctl doctor --help'" in err


def test_the_version_is_the_distribution_s(run: Run) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("mcpctl ")
