"""An exported encoder in two parts: its backbone, and the head that maps features into the ball."""

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.compose
import onnx.shape_inference
import onnx.utils


@dataclass(frozen=True)
class Parts:
    """An encoder cut in two before the LayerNorm of its head, the last one of the graph.

    Attributes:
        backbone: from pixels (B, 3, S, S) to features (B, F).
        head: from features to points (B, D).
        features: their name in both.
    """

    backbone: onnx.ModelProto
    head: onnx.ModelProto
    features: str

    @classmethod
    def of(cls, source: Path) -> "Parts":
        """The parts of an exported encoder."""
        return cls.cut(onnx.load(str(source)))

    @classmethod
    def cut(cls, model: onnx.ModelProto) -> "Parts":
        """The parts of a graph."""
        whole = onnx.shape_inference.infer_shapes(model)
        norms = [node for node in whole.graph.node if node.op_type == "LayerNormalization"]
        features: str = norms[-1].input[0]
        (pixels,), (points,) = whole.graph.input, whole.graph.output
        backbone = onnx.utils.Extractor(whole).extract_model([pixels.name], [features])
        for node in whole.graph.node:
            if node.op_type == "Shape" and node.input[0] == pixels.name:
                node.input[0] = features  # the head only reads the batch size, which is the same
        head = onnx.utils.Extractor(whole).extract_model([features], [points.name])
        return cls(backbone, head, features)

    def joined(self, backbone: onnx.ModelProto) -> onnx.ModelProto:
        """The head behind another backbone."""
        head = onnx.compose.add_prefix(self.head, "head/", rename_outputs=False)
        head.ir_version = backbone.ir_version
        ends = [(self.features, f"head/{self.features}")]
        return onnx.compose.merge_models(backbone, head, io_map=ends)
