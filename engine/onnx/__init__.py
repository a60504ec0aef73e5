"""Import of ONNX models: `load` gives a graph whose variables are the model's weights. Needs the extra `rainshed[onnx]`."""

from rainshed.engine.onnx.load import Imported, load

__all__ = ["Imported", "load"]
