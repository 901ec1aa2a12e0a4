"""Make the tiny models that the executor's tests run. Needs the ``onnx`` package (extra ``dev``).

Run it from this folder after a change; the results are committed, so that the tests do not need it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
value = helper.make_tensor_value_info
node = helper.make_node


def tensor(name: str, array: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array, dtype), name)


def model(nodes: list[NodeProto], inputs: list, outputs: list, weights: list | None = None) -> ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def add() -> ModelProto:
    """Two fixed inputs, two outputs."""
    return model(
        [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])],
        [value("a", FLOAT, [2, 3]), value("b", FLOAT, [2, 3])],
        [value("sum", FLOAT, [2, 3]), value("difference", FLOAT, [2, 3])],
    )


def dense() -> ModelProto:
    """A classifier of 64 features, one hidden layer of 32, 10 classes; any batch size."""
    rng = np.random.default_rng(7)
    weights = [
        tensor("w1", rng.standard_normal((64, 32)) / 8),
        tensor("b1", rng.standard_normal(32)),
        tensor("w2", rng.standard_normal((32, 10)) / 6),
        tensor("b2", rng.standard_normal(10)),
    ]
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["hidden"]),
        node("Relu", ["hidden"], ["active"]),
        node("Gemm", ["active", "w2", "b2"], ["logits"]),
        node("Softmax", ["logits"], ["y"]),
    ]
    return model(nodes, [value("x", FLOAT, ["batch", 64])], [value("y", FLOAT, ["batch", 10])], weights)


def strings() -> ModelProto:
    """Text comes out as it went in."""
    return model(
        [node("Identity", ["text"], ["same"])], [value("text", STRING, ["n"])], [value("same", STRING, ["n"])]
    )


def slow() -> ModelProto:
    """Adds one to ``x``, ``rounds`` times, one operator at a time."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Add", ["v", "one"], ["v_next"])],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("v", FLOAT, ["k"])],
        [value("go_on", BOOL, []), value("v_next", FLOAT, ["k"])],
        [tensor("one", [1])],
    )
    return model(
        [node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        [value("rounds", INT64, []), value("x", FLOAT, ["k"])],
        [value("y", FLOAT, ["k"])],
        [tensor("yes", True, np.bool_)],
    )


def pick() -> ModelProto:
    """Fails in the run if ``index`` is out of range: valid inputs, invalid values."""
    return model(
        [node("Gather", ["data", "index"], ["picked"])],
        [value("data", FLOAT, ["n"]), value("index", INT64, ["k"])],
        [value("picked", FLOAT, ["k"])],
    )


def running_sum() -> ModelProto:
    """Looks like a batch, and each row is the sum of all before it."""
    return model(
        [node("CumSum", ["x", "axis"], ["y"])],
        [value("x", FLOAT, ["time", 4])],
        [value("y", FLOAT, ["time", 4])],
        [tensor("axis", 0, np.int64)],
    )


def positive() -> ModelProto:
    """Drops the rows in which nothing is above 0: as many rows come out as go in, or fewer."""
    return model(
        [
            node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
            node("Greater", ["most", "zero"], ["wanted"]),
            node("Compress", ["x", "wanted"], ["y"], axis=0),
        ],
        [value("x", FLOAT, ["batch", 4])],
        [value("y", FLOAT, ["rows", 4])],
        [tensor("zero", 0)],
    )


def element() -> ModelProto:
    """Picks one element of each row; the whole run fails if any index is out of range."""
    return model(
        [node("GatherElements", ["data", "index"], ["picked"], axis=1)],
        [value("data", FLOAT, ["batch", 4]), value("index", INT64, ["batch", 1])],
        [value("picked", FLOAT, ["batch", 1])],
    )


def count() -> ModelProto:
    """Counts in each row up to ``x``, one operator at a time: as slow as its largest row."""
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("Less", ["i", "x"], ["less"]),
            node("Cast", ["less"], ["step"], to=INT64),
            node("Add", ["v", "step"], ["v_next"]),
        ],
        "body",
        [value("i", INT64, []), value("go", BOOL, []), value("v", INT64, ["batch", 1])],
        [value("go_on", BOOL, []), value("v_next", INT64, ["batch", 1])],
    )
    return model(
        [
            node("ReduceMax", ["x"], ["rounds"], keepdims=0),
            node("Sub", ["x", "x"], ["zero"]),
            node("Loop", ["rounds", "yes", "zero"], ["y"], body=body),
        ],
        [value("x", INT64, ["batch", 1])],
        [value("y", INT64, ["batch", 1])],
        [tensor("yes", True, np.bool_)],
    )


def masked() -> ModelProto:
    """Sums each row over its length where ``mask`` is not 0, and gives the doubled mask back."""
    return model(
        [
            node("Unsqueeze", ["mask", "last"], ["column"]),
            node("Mul", ["x", "column"], ["kept"]),
            node("ReduceSum", ["kept", "middle"], ["sum"], keepdims=0),
            node("Add", ["mask", "mask"], ["twice"]),
        ],
        [value("x", FLOAT, ["batch", "length", 3]), value("mask", FLOAT, ["batch", "length"])],
        [value("sum", FLOAT, ["batch", 3]), value("twice", FLOAT, ["batch", "length"])],
        [tensor("last", [2], np.int64), tensor("middle", [1], np.int64)],
    )


def any_rank() -> ModelProto:
    """One input of unknown rank, one scalar."""
    return model(
        [node("Mul", ["x", "factor"], ["y"])],
        [value("x", FLOAT, None), value("factor", FLOAT, [])],
        [value("y", FLOAT, None)],
    )


def types() -> ModelProto:
    """One input and output of every served type."""
    kinds = ["BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
    kinds += ["FLOAT16", "FLOAT", "DOUBLE", "STRING"]
    return model(
        [node("Identity", [f"in_{kind}"], [f"out_{kind}"]) for kind in kinds],
        [value(f"in_{kind}", getattr(TensorProto, kind), ["n", None]) for kind in kinds],
        [value(f"out_{kind}", getattr(TensorProto, kind), ["n", None]) for kind in kinds],
    )


def sequence() -> ModelProto:
    """An output that is no tensor beside one that is."""
    return model(
        [node("SequenceConstruct", ["x"], ["list"]), node("Identity", ["x"], ["y"])],
        [value("x", FLOAT, ["n"])],
        [helper.make_tensor_sequence_value_info("list", FLOAT, None), value("y", FLOAT, ["n"])],
    )


def fibonacci() -> ModelProto:
    """A step of a recurrence: (a, b) becomes (b, a + b); a row is over when its new b reaches ``limit``."""
    return model(
        [
            node("Split", ["state"], ["a", "b"], axis=1),
            node("Add", ["a", "b"], ["value"]),
            node("Concat", ["b", "value"], ["next"], axis=1),
            node("GreaterOrEqual", ["value", "limit"], ["over"]),
        ],
        [value("state", INT64, ["batch", 2]), value("limit", INT64, ["batch", 1])],
        [
            value("next", INT64, ["batch", 2]),
            value("value", INT64, ["batch", 1]),
            value("over", BOOL, ["batch", 1]),
        ],
    )


def table(size: int) -> ModelProto:
    """Looks up a number in a table of so many; a number that is not there fails the run."""
    return model(
        [node("Gather", ["table", "index"], ["found"])],
        [value("index", INT64, ["batch"])],
        [value("found", FLOAT, ["batch"])],
        [tensor("table", range(size))],
    )


def table_of_five() -> ModelProto:
    """Has the numbers 0 to 4."""
    return table(5)


def table_of_four() -> ModelProto:
    """Fails for 4, which the other table has: for one of five numbers."""
    return table(4)


def external() -> ModelProto:
    """Keeps its weight in another file. It is refused, so that file does not exist."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../weights.bin")
    return model(
        [node("Add", ["x", "w"], ["y"])], [value("x", FLOAT, [2])], [value("y", FLOAT, [2])], [weight]
    )


def external_nested() -> ModelProto:
    """The same, hidden in the body of a branch."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")
    branch = helper.make_graph([node("Identity", ["w"], ["o"])], "b", [], [value("o", FLOAT, [2])], [weight])
    return model(
        [node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [value("c", BOOL, [])],
        [value("y", FLOAT, [2])],
    )


if __name__ == "__main__":
    makers = [add, dense, strings, slow, pick, any_rank, types, sequence, external, external_nested]
    makers += [running_sum, positive, element, count, masked, fibonacci, table_of_five, table_of_four]
    for make in makers:
        made = make()
        if not make.__name__.startswith(("external", "any_rank")):  # onnx's own checker wants neither
            checker.check_model(made, full_check=True)
        Path(f"{make.__name__}.onnx").write_bytes(made.SerializeToString(deterministic=True))
