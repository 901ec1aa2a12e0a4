import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executor.compare import compare_outputs
from executor.errors import (
    DeadlineExceeded,
    ExecutorClosed,
    InferenceFailed,
    InputInvalid,
    LimitExceeded,
    ModelAlreadyLoaded,
    ModelInvalid,
    ModelNotLoaded,
    ProviderUnavailable,
    RunCancelled,
)
from executor.inspection import NUMPY_TYPES, TensorInfo
from executor.onnx import OnnxRuntime, providers_available
from executor.options import RuntimeOptions
from executor.runs import RunsInFlight, StopSignal

FOR_EVER = {"rounds": np.array(10**12), "x": np.zeros(2, np.float32)}
GUARD_S = 60.0
"""A test that fails to stop a run ends here, with another error than the one it expects."""


def rounds(count: int) -> dict[str, np.ndarray]:
    return {"rounds": np.array(count), "x": np.zeros(2, np.float32)}


def x_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 64)).astype(np.float32)


def observe_start(runtime: OnnxRuntime, key: str) -> threading.Event:
    """An event that is set when the next run of a model is in flight."""
    started = threading.Event()

    class Observed(RunsInFlight):
        def enter(self, signal: StopSignal) -> bool:
            entered = super().enter(signal)
            started.set()
            return entered

    runtime._models[key].runs = Observed()
    return started


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_a_model_declares_its_inputs_and_outputs(runtime):
    info = runtime.info("dense")
    assert info.inputs == (TensorInfo("x", "FP32", ("batch", 64)),)
    assert info.outputs == (TensorInfo("y", "FP32", ("batch", 10)),)
    assert (info.providers, info.fallback) == (("cpu",), ())
    assert sorted(runtime.models()) == ["add", "dense", "pick", "slow", "strings"]


def test_outputs_by_name_and_only_those_asked_for(runtime):
    a, b = np.full((2, 3), 5, np.float32), np.ones((2, 3), np.float32)
    both = runtime.run("add", {"b": b, "a": a})
    assert (both["sum"].tolist(), both["difference"].tolist()) == ((a + b).tolist(), (a - b).tolist())
    assert list(runtime.run("add", {"a": a, "b": b}, outputs=["difference"])) == ["difference"]
    with pytest.raises(InputInvalid, match="no output 'summ', did you mean 'sum'"):
        runtime.run("add", {"a": a, "b": b}, outputs=["summ"])


def test_a_batch_gives_what_its_rows_give(runtime):
    x = x_of(5)
    whole = runtime.run("dense", {"x": x})
    rows = np.concatenate([runtime.run("dense", {"x": row[None]})["y"] for row in x])
    assert compare_outputs(whole, {"y": rows}).equal


@pytest.mark.parametrize("source", ["bytes", "path"])
def test_every_served_type_comes_back_as_it_went_in(models, source):
    path = models / "types.onnx"
    names = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
    with OnnxRuntime(monotonic=time.monotonic) as runtime:
        runtime.load("types", path.read_bytes() if source == "bytes" else path)
        inputs = {}
        for name, dtype in NUMPY_TYPES.items():
            values = [["a", "é\0", ""]] if name == "BYTES" else [[0, 1, 1]]
            inputs[f"in_{names.get(name, name)}"] = np.array(values, dtype)
        outputs = runtime.run("types", inputs)
        assert len(outputs) == len(NUMPY_TYPES)
        for name, array in inputs.items():
            returned = outputs[name.replace("in_", "out_")]
            assert (returned.dtype, returned.tolist()) == (array.dtype, array.tolist())
            assert not np.shares_memory(returned, array)


def test_views_of_a_network_buffer_are_read_as_they_are(runtime):
    x = x_of(4)
    expected = runtime.run("dense", {"x": x})["y"].tolist()
    for offset in (0, 1, 3, 4):
        buffer = memoryview(bytes(offset) + x.tobytes()).toreadonly()
        view = np.frombuffer(buffer, np.float32, x.size, offset).reshape(x.shape)
        assert not view.flags.writeable
        assert runtime.run("dense", {"x": view})["y"].tolist() == expected
    assert runtime.run("dense", {"x": np.asfortranarray(x)})["y"].tolist() == expected
    assert runtime.run("dense", {"x": x[::-1]})["y"].tolist() == expected[::-1]


def test_empty_batches_and_nan_are_values_like_others(runtime):
    assert runtime.run("dense", {"x": x_of(0)})["y"].shape == (0, 10)
    x = x_of(2)
    x[1] = np.nan
    y = runtime.run("dense", {"x": x})["y"]
    assert not np.isnan(y[0]).any()
    assert np.isnan(y[1]).all()
    assert runtime.run("strings", {"text": np.array([], object)})["same"].shape == (0,)


def test_text_is_text(runtime):
    text = np.array(["", "a", "naïve", "日本", "nul\0inside", "🙂" * 1000], object)
    assert runtime.run("strings", {"text": text})["same"].tolist() == text.tolist()
    assert runtime.run("strings", {"text": np.array(["a", "b"])})["same"].tolist() == ["a", "b"]
    with pytest.raises(InputInvalid, match="not valid Unicode"):
        runtime.run("strings", {"text": np.array(["\ud800"], object)})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"x": np.zeros((1, 64))},
        {"x": np.zeros((1, 63), np.float32)},
        {"x": np.zeros(64, np.float32)},
        {"X": np.zeros((1, 64), np.float32)},
        {"x": np.zeros((1, 64), np.float32), "z": np.zeros(1)},
        {"x": np.zeros((1, 64), ">f4")},
        {"x": None},
    ],
)
def test_wrong_inputs_are_refused_before_the_run(runtime, wrong):
    started = observe_start(runtime, "dense")
    with pytest.raises(InputInvalid, match="do not fit model 'dense'"):
        runtime.run("dense", wrong)
    assert not started.is_set()


def test_a_scalar_is_no_vector_and_an_open_rank_takes_both(models):
    with OnnxRuntime(monotonic=time.monotonic) as runtime:
        info = runtime.load("any", models / "any_rank.onnx")
        assert info.inputs == (TensorInfo("x", "FP32", None), TensorInfo("factor", "FP32", ()))
        two = np.array(2, np.float32)
        for shape in ((), (3,), (2, 0, 2)):
            x = np.ones(shape, np.float32)
            assert runtime.run("any", {"x": x, "factor": two})["y"].shape == shape
        with pytest.raises(InputInvalid, match=r"'factor': expected FP32 \[\], got FP32 \[1\]"):
            runtime.run("any", {"x": two, "factor": np.ones(1, np.float32)})
        assert runtime.warm_up("any") is False


def test_an_output_that_is_no_tensor_is_named_and_left_out(models):
    with OnnxRuntime(monotonic=time.monotonic) as runtime:
        info = runtime.load("s", models / "sequence.onnx")
        assert (info.outputs_unsupported, [out.name for out in info.outputs]) == (("list",), ["y"])
        assert list(runtime.run("s", {"x": np.ones(2, np.float32)})) == ["y"]


def test_a_failure_in_the_run_is_told_and_leaves_everything_working(runtime):
    data = np.arange(3, dtype=np.float32)
    for _ in range(3):
        with pytest.raises(InferenceFailed, match=r"'pick' failed: .*idx=9") as caught:
            runtime.run("pick", {"data": data, "index": np.array([9])})
        assert "\n" not in str(caught.value)
        assert runtime.run("pick", {"data": data, "index": np.array([2])})["picked"].tolist() == [2.0]
        assert runtime.run("dense", {"x": x_of(1)})["y"].shape == (1, 10)


def test_a_deadline_stops_a_run_and_the_model_goes_on(runtime):
    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match="was stopped after"):
            runtime.run("slow", FOR_EVER, timeout_s=0.01)
    assert runtime.run("slow", rounds(5), timeout_s=GUARD_S)["y"].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_no_time_left_means_no_run(runtime, timeout_s):
    started = observe_start(runtime, "dense")
    with pytest.raises(DeadlineExceeded, match="was not started"):
        runtime.run("dense", {"x": x_of(1)}, timeout_s=timeout_s)
    assert not started.is_set()


def test_a_run_is_stopped_from_another_thread_before_or_during(runtime, pool):
    signal = StopSignal()
    signal.stop(RunCancelled("before"))
    with pytest.raises(RunCancelled, match="before"):
        runtime.run("slow", FOR_EVER, stop=signal, timeout_s=GUARD_S)
    started, signal = observe_start(runtime, "slow"), StopSignal()
    running = pool.submit(runtime.run, "slow", FOR_EVER, stop=signal, timeout_s=GUARD_S)
    assert started.wait(GUARD_S)
    signal.stop(RunCancelled("during"))
    with pytest.raises(RunCancelled, match="during"):
        running.result()


def test_one_session_serves_many_threads(runtime, pool):
    batches = [x_of(count) for count in range(1, 9)]
    expected = [runtime.run("dense", {"x": x}) for x in batches]
    jobs = [
        (number % 8, pool.submit(runtime.run, "dense", {"x": batches[number % 8]})) for number in range(200)
    ]
    bad = [pool.submit(runtime.run, "dense", {"x": np.zeros(1)}) for _ in range(20)]
    stopped = [pool.submit(runtime.run, "slow", FOR_EVER, timeout_s=0.01) for _ in range(4)]
    assert all(compare_outputs(expected[number], job.result()).equal for number, job in jobs)
    assert all(isinstance(job.exception(), InputInvalid) for job in bad)
    assert all(isinstance(job.exception(), DeadlineExceeded) for job in stopped)


def test_unloading_waits_for_the_runs_in_flight(runtime, pool):
    started, signal = observe_start(runtime, "slow"), StopSignal()
    running = pool.submit(runtime.run, "slow", FOR_EVER, stop=signal, timeout_s=GUARD_S)
    assert started.wait(GUARD_S)
    prepared = runtime.prepare("slow", rounds(1))
    unloading = pool.submit(runtime.unload, "slow")
    while "slow" in runtime.models():
        pass
    with pytest.raises(ModelNotLoaded):
        runtime.run("slow", rounds(1))
    assert not unloading.done()
    signal.stop(RunCancelled("enough"))
    assert isinstance(running.exception(), RunCancelled)
    unloading.result()
    with pytest.raises(ModelNotLoaded):
        runtime.execute(prepared)
    assert runtime.run("dense", {"x": x_of(1)})["y"].shape == (1, 10)


def test_unloading_stops_what_has_not_ended_in_time(runtime, models, pool):
    started = observe_start(runtime, "slow")
    running = pool.submit(runtime.run, "slow", FOR_EVER, timeout_s=GUARD_S)
    assert started.wait(GUARD_S)
    runtime.unload("slow", drain_s=0)
    with pytest.raises(ModelNotLoaded, match="unloaded during the run"):
        running.result()
    runtime.load("slow", models / "slow.onnx")
    assert runtime.run("slow", rounds(1))["y"].tolist() == [1.0, 1.0]


def test_loading_and_unloading_under_fire(runtime, models, pool):
    """Every run either gives the right answer or says that the model is not there."""
    x = x_of(1)
    expected = runtime.run("dense", {"x": x})
    gone = threading.Event()

    def fire() -> int:
        served = 0
        while not gone.is_set():
            try:
                assert compare_outputs(expected, runtime.run("dense", {"x": x})).equal
                served += 1
            except ModelNotLoaded:
                pass
        return served

    firing = [pool.submit(fire) for _ in range(3)]
    try:
        for _ in range(10):
            runtime.unload("dense")
            runtime.load("dense", models / "dense.onnx")
    finally:
        gone.set()
    assert sum(each.result() for each in firing) >= 0
    assert len(runtime._models["dense"].runs) == 0


def test_close_stops_everything_and_leaves_no_thread(models, pool):
    before = set(threading.enumerate())
    runtime = OnnxRuntime(monotonic=time.monotonic)
    runtime.load("slow", models / "slow.onnx")
    started = observe_start(runtime, "slow")
    running = pool.submit(runtime.run, "slow", FOR_EVER, timeout_s=GUARD_S)
    assert started.wait(GUARD_S)
    runtime.close()
    runtime.close()
    assert isinstance(running.exception(), ExecutorClosed)
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not any("watchdog" in name for name in left)
    for use in (lambda: runtime.run("slow", rounds(1)), lambda: runtime.load("slow", models / "slow.onnx")):
        with pytest.raises(ExecutorClosed):
            use()


@pytest.mark.parametrize("junk", [b"", b"garbage", b"\x08\x08", b"ORTM" * 20, bytes(100)])
@pytest.mark.parametrize("source", ["bytes", "path"])
def test_garbage_is_no_model_and_takes_no_place(tmp_path, models, junk, source):
    (tmp_path / "junk.onnx").write_bytes(junk)
    with OnnxRuntime(RuntimeOptions(models_max=1), monotonic=time.monotonic) as runtime:
        with pytest.raises(ModelInvalid):
            runtime.load("junk", junk if source == "bytes" else tmp_path / "junk.onnx")
        runtime.load("junk", models / "add.onnx")


def test_files_that_are_not_there_or_reach_out_are_refused(models, tmp_path):
    with OnnxRuntime(monotonic=time.monotonic) as runtime:
        with pytest.raises(ModelInvalid, match="cannot be read"):
            runtime.load("a", tmp_path / "nothing.onnx")
        with pytest.raises(ModelInvalid, match="cannot be read"):
            runtime.load("a", tmp_path)
        for name in ("external", "external_nested"):
            with pytest.raises(ModelInvalid, match="outside its file"):
                runtime.load("a", models / f"{name}.onnx")
        assert runtime.models() == {}


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_damaged_model_is_loaded_or_refused_and_never_more(models, data):
    damaged = bytearray((models / "add.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with OnnxRuntime(monotonic=time.monotonic) as runtime:
        try:
            runtime.load("damaged", bytes(damaged))
        except ModelInvalid:
            assert runtime.models() == {}
        else:
            runtime.warm_up("damaged", timeout_s=GUARD_S)


def test_the_limits_are_kept(models):
    options = RuntimeOptions(models_max=1, model_bytes_max=1000)
    with OnnxRuntime(options, monotonic=time.monotonic) as runtime:
        with pytest.raises(LimitExceeded, match="model_bytes_max is 1000"):
            runtime.load("dense", models / "dense.onnx")
        runtime.load("add", models / "add.onnx")
        with pytest.raises(LimitExceeded, match="models_max = 1"):
            runtime.load("slow", models / "slow.onnx")
        with pytest.raises(ModelAlreadyLoaded):
            runtime.load("add", models / "add.onnx")
        runtime.unload("add")
        with pytest.raises(ModelNotLoaded):
            runtime.unload("add")
        runtime.load("slow", models / "slow.onnx")


def test_warming_up_says_whether_it_could(runtime, models):
    assert runtime.warm_up("dense")
    assert runtime.warm_up("strings")
    with pytest.raises(ModelNotLoaded):
        runtime.warm_up("nothing")
    with OnnxRuntime(RuntimeOptions(warm_up_bytes_max=10), monotonic=time.monotonic) as small:
        small.load("dense", models / "dense.onnx")
        assert not small.warm_up("dense")


@pytest.mark.parametrize(
    "options",
    [
        RuntimeOptions(intra_op_threads=2, inter_op_threads=2),
        RuntimeOptions(shrink_arena=True),
        RuntimeOptions(shrink_arena=True, memory_arena=False),
        RuntimeOptions(memory_pattern=True),
    ],
)
def test_every_way_to_build_a_session_gives_the_same_answer(runtime, models, options):
    with OnnxRuntime(options, monotonic=time.monotonic) as other:
        other.load("dense", models / "dense.onnx")
        inputs = {"x": x_of(3)}
        assert compare_outputs(runtime.run("dense", inputs), other.run("dense", inputs)).equal


def cuda_works(models) -> bool:
    """Whether a session really runs on a device: being built for CUDA is not enough."""
    with OnnxRuntime(
        RuntimeOptions(providers=("cuda",), allow_fallback=True), monotonic=time.monotonic
    ) as probe:
        return probe.load("add", models / "add.onnx").fallback == ()


def test_a_missing_provider_is_an_error_or_a_reported_fallback(models):
    if cuda_works(models):
        pytest.skip("this machine has a CUDA device")
    strict = RuntimeOptions(providers=("cuda", "cpu"))
    with OnnxRuntime(strict, monotonic=time.monotonic) as runtime:
        with pytest.raises(ProviderUnavailable, match=r"\['cuda'\] are not usable .* allow a fallback"):
            runtime.load("dense", models / "dense.onnx")
        assert runtime.models() == {}
    for asked in (("cuda", "cpu"), ("cuda",)):
        lenient = RuntimeOptions(providers=asked, allow_fallback=True)
        with OnnxRuntime(lenient, monotonic=time.monotonic) as runtime:
            info = runtime.load("dense", models / "dense.onnx")
            assert (info.providers, info.fallback) == (("cpu",), ("cuda",))
            assert runtime.warm_up("dense")


def test_the_device_agrees_with_the_processor(runtime, models):
    if not cuda_works(models):
        pytest.skip("needs a CUDA device and an onnxruntime built for it")
    assert "cuda" in providers_available()
    options = RuntimeOptions(providers=("cuda", "cpu"), device_memory_bytes_max=2**30, shrink_arena=True)
    with OnnxRuntime(options, monotonic=time.monotonic) as device:
        assert device.load("dense", models / "dense.onnx").providers == ("cuda", "cpu")
        inputs = {"x": x_of(33)}
        assert compare_outputs(runtime.run("dense", inputs), device.run("dense", inputs)).equal
        device.load("slow", models / "slow.onnx")
        with pytest.raises(DeadlineExceeded):
            device.run("slow", FOR_EVER, timeout_s=0.05)


def test_the_device_options_are_those_that_onnxruntime_documents():
    options = RuntimeOptions(
        providers=("cuda", "cpu"), device_id=1, device_memory_bytes_max=2**30, shrink_arena=True
    )
    assert options.provider_options("cpu") == {}
    assert options.provider_options("cuda") == {
        "device_id": "1",
        "gpu_mem_limit": str(2**30),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }
    assert "gpu_mem_limit" not in RuntimeOptions(providers=("cuda",)).provider_options("cuda")
    assert options.shrink_list(("cuda", "cpu")) == "cpu:0;gpu:1"
    assert options.shrink_list(("cpu",)) == "cpu:0"


def test_an_arena_is_shrunk_behind_large_inputs_and_behind_the_run_after_them(models, monkeypatch):
    options = RuntimeOptions(shrink_arena=True, shrink_bytes_min=x_of(100).nbytes)
    shrunk = []
    with OnnxRuntime(options, monotonic=time.monotonic) as runtime:
        plain = runtime._run_options
        monkeypatch.setattr(runtime, "_run_options", lambda shrink: (shrunk.append(shrink), plain(shrink))[1])
        runtime.load("dense", models / "dense.onnx")
        for count in (1, 99, 100, 1, 1, 200, 200, 2, 2):
            runtime.run("dense", {"x": x_of(count)})
    assert [bool(each) for each in shrunk] == [False, False, True, True, False, True, True, True, False]
    assert set(shrunk) == {"", "cpu:0"}


RESIDENT = """
import sys, time
from pathlib import Path
import numpy as np
from executor.onnx import OnnxRuntime
from executor.options import RuntimeOptions

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

shrink = sys.argv[2] == "shrink"
options = RuntimeOptions(shrink_arena=shrink, shrink_bytes_min=2**20 if shrink else 0)
with OnnxRuntime(options, monotonic=time.monotonic) as runtime:
    runtime.load("sum", Path(sys.argv[1]))
    small = {"x": np.ones((2, 4), np.float32)}
    runtime.run("sum", small)
    before = resident_bytes()
    runtime.run("sum", {"x": np.ones((2**22, 4), np.float32)})
    runtime.run("sum", small)
    print((resident_bytes() - before) // 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read as Linux tells it")
def test_memory_that_a_large_run_took_is_given_back_where_arenas_shrink(models):
    def left_mib(mode):
        command = [sys.executable, "-c", RESIDENT, str(models / "running_sum.onnx"), mode]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert left_mib("keep") > 48
    assert left_mib("shrink") < 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"providers": ()},
        {"providers": ("cpu", "cpu")},
        {"providers": ("gpu",)},
        {"intra_op_threads": 0},
        {"device_memory_bytes_max": -1},
        {"models_max": 0},
    ],
)
def test_options_without_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"providers|at least|negative"):
        RuntimeOptions(**wrong)


FORKED = """
import os, sys, time
from pathlib import Path
from executor.errors import ExecutorClosed
from executor.onnx import OnnxRuntime
from executor.options import RuntimeOptions
runtime = OnnxRuntime(RuntimeOptions(intra_op_threads=2), monotonic=time.monotonic)
runtime.load("dense", Path(sys.argv[1]))
if os.fork() == 0:
    try:
        runtime.warm_up("dense")
    except ExecutorClosed as error:
        os._exit(42 if "spawn" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 42
assert runtime.warm_up("dense")
"""


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs fork")
def test_a_forked_child_is_told_instead_of_hanging(models):
    command = [sys.executable, "-c", FORKED, str(models / "dense.onnx")]
    subprocess.run(command, check=True, timeout=GUARD_S)


def test_importing_the_package_does_not_import_onnxruntime():
    program = (
        "import sys, executor, executor.onnx, executor.pool\n"
        "assert executor.CommandQueue and executor.RuntimeOptions and 'OnnxRuntime' in dir(executor)\n"
        "assert 'onnxruntime' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=GUARD_S)
    light = "import sys, executor\nassert not {'numpy', 'asyncio', 'onnxruntime'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", light], check=True, timeout=GUARD_S)


def test_every_exported_name_is_there():
    import executor

    assert all(getattr(executor, name) is not None for name in executor.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = executor.nothing
