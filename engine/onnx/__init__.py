"""Import of ONNX models: `load` gives a graph whose variables are the model's weights. Needs the extra `rainshed[onnx]`."""

try:
    from rainshed.engine.onnx.load import Imported, load
except ModuleNotFoundError as error:
    if error.name != "onnx":
        raise
    raise ModuleNotFoundError("this needs the package onnx: pip install 'rainshed[onnx]'", name="onnx") from None

__all__ = ["Imported", "load"]
