"""Time the same decode step in ONNX Runtime, OpenVINO and torchao, beside ours, in one run.

    uv run --with onnx --with onnxruntime --with openvino --with nncf --with torchao \
        python tests/benchmarks/other_runtimes.py

MusicGen-small's shape, random weights, guidance on (2 rows), no text, 10 s of context in the cache and 5 s of target.
Their graph holds embeddings, layers, attention over the cache and the heads; what it adds to the cache it returns, and
whoever runs it writes that into the cache's memory, which it reads in place: no copies. Guidance and sampling are left
out for them and counted for us. The implementations take turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

# As the command line does (cli/app.py), and before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import numpy as np
import torch
from environment import describe
from torch import Tensor, nn

from stage_cli.core.bench.settings import SIZES
from stage_cli.core.generation.config import GenerationConfig
from stage_cli.core.generation.song import decode_window
from stage_cli.core.lm.layer import TransformerLayer, merge_heads
from stage_cli.core.lm.linear import Int8Linear
from stage_cli.core.lm.transformer import LanguageModel

ROWS, CONTEXT, TARGET, WARM_UP = 2, 500, 250, 5


class Step(nn.Module):
    """One step as a function of its cache: what a graph of another runtime can hold."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, tokens: Tensor, positions: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Tokens `[R, K, 1]`, positions `[R, 1]`, keys and values of each layer → logits, new keys and values."""
        x, new = self.lm.embed(tokens, positions), []
        for layer, keys, values in zip(self.lm.layers, cache[::2], cache[1::2], strict=True):
            assert isinstance(layer, TransformerLayer)
            q, k, v = layer.project(x)
            q = q * q.shape[-1] ** -0.5
            scores = torch.cat([q @ keys.transpose(2, 3), q @ k.transpose(2, 3)], dim=3).softmax(dim=3)
            past = keys.shape[2]
            seen = scores[..., :past] @ values + scores[..., past:] @ v
            x = layer.feed_forward(x + layer.attention_out(merge_heads(seen)))
            new += [k, v]
        return self.lm.logits(x)[:, :, 0], *new


def inputs(lm: LanguageModel) -> tuple[Tensor, ...]:
    """Random ones of the sizes that are measured."""
    config = lm.config
    past = CONTEXT + TARGET
    shape = (ROWS, config.heads, past, config.head_dimension)
    tokens = torch.randint(config.codebook_size, (ROWS, config.codebooks, 1))
    return (tokens, torch.full((ROWS, 1), past), *(torch.randn(shape) for _ in range(2 * config.layers)))


def ours(quantized: bool) -> Callable[[int], list[float]]:
    """Our whole step after as much context and target."""
    torch.manual_seed(0)
    config = SIZES["musicgen-small"]
    reference = LanguageModel(config)
    lm = LanguageModel(config, quantized=quantized).eval()
    for name, module in lm.named_modules():
        if isinstance(module, Int8Linear):
            module.keep(reference.state_dict()[f"{name}.weight"])
    context = torch.randint(config.codebook_size, (1, config.codebooks, CONTEXT))
    known = torch.randint(config.codebook_size, (1, config.codebooks, TARGET))

    def run(steps: int) -> list[float]:
        times: list[float] = []
        uniforms = torch.rand(1, config.codebooks, TARGET + steps + WARM_UP)
        decode_window(
            lm, context, known, uniforms, GenerationConfig(), on_step=lambda _: times.append(time.perf_counter())
        )
        return [b - a for a, b in itertools.pairwise(times)][WARM_UP:]

    return run


def timed(step: Callable[[], object]) -> Callable[[int], list[float]]:
    """Time some calls."""

    def run(steps: int) -> list[float]:
        times = []
        for _ in range(steps + WARM_UP):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        return times[WARM_UP:]

    return run


def torchao(lm: LanguageModel, given: tuple[Tensor, ...]) -> Callable[[int], list[float]]:
    """Dynamic int8 by torchao, without a compiler."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(lm, Int8DynamicActivationInt8WeightConfig())
    step = Step(lm)

    @torch.inference_mode()
    def once() -> object:
        return step(*given)

    return timed(once)


def export(lm: LanguageModel, given: tuple[Tensor, ...], path: Path) -> list[str]:
    """Write the step as ONNX; returns the names of its inputs."""
    caches = [f"{part}_{layer}" for layer in range(lm.config.layers) for part in ("keys", "values")]
    names = ["tokens", "positions", *caches]
    outputs = ["logits", *(f"new_{name}" for name in caches)]
    with torch.inference_mode():
        torch.onnx.export(
            Step(lm), given, str(path), input_names=names, output_names=outputs, opset_version=17, dynamo=False
        )
    return names


def onnx_runtime(path: Path, names: list[str], given: tuple[Tensor, ...]) -> Callable[[int], list[float]]:
    """A graph in ONNX Runtime, its inputs bound where they lie."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()) for tensor in given]
    for name, value in zip(names, kept, strict=True):
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return timed(lambda: (session.run_with_iobinding(binding), kept))


def openvino(path: Path, given: tuple[Tensor, ...], *, compress: bool) -> Callable[[int], list[float]]:
    """A graph in OpenVINO; `compress` keeps int8 weights, and activations are quantized as it runs."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    if compress:
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
    else:
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in given]
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
    return timed(lambda: (request.infer(), arrays))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    lm = LanguageModel(SIZES["musicgen-small"]).eval()
    given = inputs(lm)
    with TemporaryDirectory() as folder:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        plain, small = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        names = export(lm, given, plain)
        quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True)
        runs = {
            "stage int8 (with guidance and sampling)": ours(quantized=True),
            "stage float32 (likewise)": ours(quantized=False),
            "ONNX Runtime float32": onnx_runtime(plain, names, given),
            "ONNX Runtime dynamic int8": onnx_runtime(small, names, given),
            "OpenVINO bfloat16": openvino(plain, given, compress=False),
            "OpenVINO int8 weights, dynamic int8": openvino(plain, given, compress=True),
            "torchao dynamic int8, no compiler": torchao(lm, given),
        }
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                times[name] += run(arguments.steps)
    print(describe("torch", "onnxruntime", "openvino", "nncf", "torchao"))
    print(f"{arguments.rounds} rounds of {arguments.steps} steps, {torch.get_num_threads()} threads\n")
    print("| implementation | ms a step (median) | min | × ours |\n| --- | --- | --- | --- |")
    first = median(next(iter(times.values())))
    for name, values in times.items():
        middle = median(values)
        print(f"| {name} | {middle * 1e3:.1f} | {min(values) * 1e3:.1f} | {middle / first:.1f} |")


if __name__ == "__main__":
    main()
