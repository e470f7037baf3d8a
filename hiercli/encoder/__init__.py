"""Exported encoders: ONNX files that emit points of the ball, run without torch."""
