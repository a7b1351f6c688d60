"""Other engines at their best, dense: ONNX Runtime and OpenVINO in float32 and int8, ncnn in float32.

All but PyTorch get the network as one ONNX model, ncnn as the TorchScript that its converter reads. Threads are set
explicitly; float32 is kept float32 (OpenVINO would else take bfloat16 where the CPU has it). int8 is
made by ONNX Runtime's static quantiser, per channel, as a QDQ model that OpenVINO reads as well; it calibrates on
random batches, since what is compared here is time. Packages beyond ONNX Runtime are the extra `peers`.
"""

import importlib
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from subp_contract.distribution import install
from subp_contract.errors import UserError
from subp_contract.scratch import scratch_folder
from tvm_sched.targets import cpu_flags

if TYPE_CHECKING:
    from tvm_sched.bench.engines import Network

Call = Callable[[np.ndarray], np.ndarray]

VNNI = {"avx512_vnni", "avx_vnni"}  # without them sums of 8-bit products may overflow 16 bits: weights take 7


def package(name: str) -> ModuleType:
    """The package. Raises UserError, which says how to install it, where it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"the package '{name}' is not installed: {install('peers')} brings it") from None


def quantised(model: bytes, network: "Network") -> bytes:
    """The ONNX `model` in int8 with float32 inputs and outputs, weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = input_name(model)
    batches = iter([{name: x} for x in network.random_inputs()])

    class Random(CalibrationDataReader):
        """Standard normal images."""

        def get_next(self) -> dict | None:
            return next(batches, None)

    with scratch_folder() as folder:
        plain, prepared, made = (folder / f"{stage}.onnx" for stage in ("plain", "prepared", "made"))
        plain.write_bytes(model)
        quant_pre_process(str(plain), str(prepared))
        quantize_static(
            str(prepared),
            str(made),
            Random(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not VNNI & cpu_flags(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return made.read_bytes()


def input_name(model: bytes) -> str:
    """Of the ONNX model's only input."""
    import onnx

    return onnx.load_model_from_string(model).graph.input[0].name


def onnxruntime(model: bytes, network: "Network", threads: int) -> Call:
    """ONNX Runtime, all graph optimisations on."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino(model: bytes, network: "Network", threads: int) -> Call:
    """OpenVINO for latency: one stream."""
    core = package("openvino").Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", settings).create_infer_request()
    return lambda x: request.infer({0: x})[0]


def ncnn(model: bytes, network: "Network", threads: int) -> Call:
    """ncnn, by its converter from TorchScript. It knows no batches: images go through it one by one."""
    import torch

    runtime = package("ncnn")
    converter = package("pnnx")
    image = network.only_input()[:1]
    net = runtime.Net()
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    with scratch_folder() as folder:
        path = folder / "network.pt"
        torch.jit.trace(network.eager, image).save(str(path))
        # The program itself: its Python function converts weights to fp16 whatever `fp16` says.
        shape = ",".join(map(str, image.shape))
        subprocess.run(
            [converter.EXEC_PATH, str(path), f"inputshape=[{shape}]f32", "fp16=0"], capture_output=True, cwd=folder
        )
        param, weights = (path.with_suffix(f".ncnn.{kind}") for kind in ("param", "bin"))
        if not weights.is_file() or net.load_param(str(param)) or net.load_model(str(weights)):
            raise UserError(f"ncnn cannot load {network.name}: leave it out of --against")
    first, last = net.input_names()[0], net.output_names()[0]

    def call(x: np.ndarray) -> np.ndarray:
        outputs = []
        for each in x:
            with net.create_extractor() as extractor:
                extractor.input(first, runtime.Mat(each))
                outputs.append(np.array(extractor.extract(last)[1]))
        return np.stack(outputs)

    return call


@dataclass(frozen=True)
class Peer:
    """An engine beside ours: `make` gets an ONNX model (of that precision), the network and the threads."""

    make: Callable[[bytes, "Network", int], Call]
    precision: str = "float32"


PEERS = {
    "onnxruntime": Peer(onnxruntime),
    "onnxruntime-int8": Peer(onnxruntime, "int8"),
    "openvino": Peer(openvino),
    "openvino-int8": Peer(openvino, "int8"),
    "ncnn": Peer(ncnn),
}
