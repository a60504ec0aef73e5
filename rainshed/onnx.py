"""Import of ONNX models: `rainshed.onnx.load("model.onnx").graph`. Needs the extra: pip install 'rainshed[onnx]'."""

from rainshed.engine.onnx import Imported, load

__all__ = ["Imported", "load"]
