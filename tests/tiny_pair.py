"""A tiny random CLIP-like pair, written as exports look: two ONNX files, a tokenizer, settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

DIM, SIDE, CONTEXT = 12, 16, 10
WORDS = ["a", "red", "blue", "bird", "on", "water", "flower", "photo", "kind", "the", "i", "de"]
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
_INTEGERS = {np.int64: TensorProto.INT64, np.int32: TensorProto.INT32}
_FLOATS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def image_weight(dim: int = DIM, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3 * side * side, dim)).astype(np.float32)


def text_weight(dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(len(WORDS) + 4, dim)).astype(np.float32)


def image_model(
    file: Path,
    *,
    dim: int = DIM,
    batch: int | str = "batch",
    side: int | str = SIDE,
    dtype: type = np.float32,
    name: str = "pixel_values",
    outputs: tuple[str, ...] = ("image_embeds",),
    weight: np.ndarray | None = None,
    external: str = "",
) -> Path:
    """An image model: the pixels times a matrix."""
    own = image_weight(dim) if weight is None else weight
    shape = np.array([-1, len(own)], np.int64)
    nodes = [
        helper.make_node("Reshape", [name, "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], [outputs[0]]),
    ]
    infos = [helper.make_tensor_value_info(outputs[0], _FLOATS[dtype], [batch, dim])]
    for other in outputs[1:]:  # as last_hidden_state is
        nodes.append(helper.make_node("Identity", [name], [other]))
        infos.append(helper.make_tensor_value_info(other, _FLOATS[dtype], [batch, 3, side, side]))
    graph = helper.make_graph(
        nodes, "image",
        [helper.make_tensor_value_info(name, _FLOATS[dtype], [batch, 3, side, side])], infos,
        [numpy_helper.from_array(shape, "shape"),
         numpy_helper.from_array(own.astype(dtype), "weight")],
    )  # fmt: skip
    return save(graph, file, external)


def text_model(
    file: Path,
    *,
    dim: int = DIM,
    batch: int | str = "batch",
    length: int | str = "sequence",
    dtype: type = np.int64,
    name: str = "input_ids",
    mask: bool = False,
    output: str = "text_embeds",
    weight: np.ndarray | None = None,
    external: str = "",
) -> Path:
    """A text model: the mean of a vector for each token, with padding unless there is a mask."""
    own = text_weight(dim) if weight is None else weight
    inputs = [helper.make_tensor_value_info(name, _INTEGERS[dtype], [batch, length])]
    nodes = [helper.make_node("Gather", ["weight", name], ["hidden"])]
    last = "hidden"
    if mask:
        inputs.append(
            helper.make_tensor_value_info("attention_mask", _INTEGERS[dtype], [batch, length])
        )
        nodes += [
            helper.make_node("Cast", ["attention_mask"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["floats", "two"], ["wide"]),
            helper.make_node("Mul", ["hidden", "wide"], ["masked"]),
        ]
        last = "masked"
    nodes.append(helper.make_node("ReduceMean", [last, "one"], [output], keepdims=0))
    graph = helper.make_graph(
        nodes, "text", inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, dim]),
         helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, length, dim])],
        [numpy_helper.from_array(own, "weight"), numpy_helper.from_array(np.array([1]), "one"),
         numpy_helper.from_array(np.array([2]), "two")],
    )  # fmt: skip
    return save(graph, file, external)


def save(graph: Any, file: Path, external: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    if external:
        onnx.save(model, str(file), save_as_external_data=True, location=external,
                  size_threshold=64)  # fmt: skip
    else:
        file.write_bytes(model.SerializeToString())
    return file


def tokenizer(file: Path, *, truncation: int | None = None, padding: int | None = None) -> Path:
    """A tokenizer of whole words with marks of start and end, as CLIP's."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "<s>", "</s>", "!"])}
    vocabulary |= {word: number + 4 for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    if truncation:
        made.enable_truncation(truncation)
    if padding:
        made.enable_padding(pad_id=2, pad_token="</s>", length=padding)
    file.write_text(made.to_str())
    return file


def settings(folder: Path, **changes: Any) -> None:
    """What lies beside the models of Hugging Face: as a CLIP model says it."""
    facts = {
        "do_resize": True, "size": {"shortest_edge": SIDE}, "do_center_crop": True,
        "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": MEAN, "image_std": STD,
    } | changes  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": CONTEXT, "pad_token": "</s>"})
    )


def write(folder: Path) -> tuple[Path, Path]:
    """The whole pair; the image and the text model."""
    folder.mkdir(parents=True, exist_ok=True)
    settings(folder)
    tokenizer(folder / "tokenizer.json")
    image = image_model(folder / "onnx" / "vision_model.onnx")
    return image, text_model(folder / "onnx" / "text_model.onnx")
