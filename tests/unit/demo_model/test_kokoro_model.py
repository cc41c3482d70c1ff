"""The preparation of Kokoro's model, on a small model quantised in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from demo_model import kokoro_model

CHANNELS, WIDTH, SAMPLES = 4, 3, 20


def quantised(with_bias: bool) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """One convolution in 8 bit integers, its weights and its bias as numbers; zero point 117, pads of 1."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (CHANNELS, CHANNELS, WIDTH), np.uint8)
    weight = (codes.astype(np.float32) - 117) * np.float32(0.02)
    bias = rng.standard_normal(CHANNELS).astype(np.float32) * with_bias
    stored = {
        "codes": codes, "zero": np.array(117, np.uint8), "scale": np.array(0.02, np.float32), "bias": bias,
        "half": np.array(0.5, np.float32), "shape": np.array([1, -1, 1]), "low": np.array(1.0, np.float32),
        "unused": np.ones(9, np.float32),
    }  # fmt: skip
    node = helper.make_node
    summed = "product" if not with_bias else "with_bias"
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["x_codes", "x_scale", "x_zero"]),
        node("ConvInteger", ["x_codes", "codes", "x_zero", "zero"], ["product"], name="conv", pads=[1, 1]),
        node("Mul", ["x_scale", "scale"], ["scales"]),
        node("Cast", [summed], ["as_float"], to=TensorProto.FLOAT),
        node("Mul", ["as_float", "scales"], ["y"]),
        node("Max", ["x", "low"], [kokoro_model.LENGTHS]),
    ]
    if with_bias:
        nodes[3:3] = [
            node("Div", ["bias", "scales"], ["bias_over"]),
            node("Floor", ["bias_over"], ["bias_floor"]),
            node("Cast", ["bias_floor"], ["bias_int"], to=TensorProto.INT32),
            node("Reshape", ["bias_int", "shape"], ["bias_shaped"]),
            node("Add", ["product", "bias_shaped"], ["with_bias"]),
        ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, CHANNELS, SAMPLES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CHANNELS, SAMPLES])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), weight, bias


def run(model: onnx.ModelProto, outputs: list[str], x: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(output) for output in ReferenceEvaluator(model).run(outputs, {"x": x})]


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_prepared_model_computes_the_same_in_floats(tmp_path: Path, with_bias: bool) -> None:
    model, weight, bias = quantised(with_bias)
    onnx.save(model, str(tmp_path / "published.onnx"))
    kokoro_model.prepare(tmp_path / "published.onnx", tmp_path / "ready.onnx")
    ready = onnx.load(str(tmp_path / "ready.onnx"))
    assert [item.op_type for item in ready.graph.node] == ["Conv", "Max"]
    assert "unused" not in {item.name for item in ready.graph.initializer}

    x = np.random.default_rng(4).standard_normal((1, CHANNELS, SAMPLES)).astype(np.float32)
    y, lengths = run(ready, ["y", kokoro_model.LENGTHS], x)
    padded = np.pad(x[0], ((0, 0), (1, 1)))
    windows = np.stack([padded[:, start : start + WIDTH] for start in range(SAMPLES)])
    np.testing.assert_allclose(y[0], np.einsum("oik,tik->ot", weight, windows) + bias[:, None], atol=1e-4)
    np.testing.assert_array_equal(lengths, np.maximum(x, 1))
    # What the integers lose: half a step of the signal for every number that is summed, and one of the bias.
    (published,) = run(model, ["y"], x)
    step = (x.max() - x.min()) / 255
    lost = step * (np.abs(weight).sum(axis=(1, 2)).max() / 2 + 0.02)
    assert 0 < np.abs(published - y).max() <= lost * 1.01


def test_another_model_is_refused(tmp_path: Path) -> None:
    model, _, _ = quantised(with_bias=True)
    model.graph.node[-1].output[0] = "something else"
    onnx.save(model, str(tmp_path / "published.onnx"))
    with pytest.raises(ValueError, match="the model is another one: it has no"):
        kokoro_model.prepare(tmp_path / "published.onnx", tmp_path / "ready.onnx")
    assert not (tmp_path / "ready.onnx").exists()
