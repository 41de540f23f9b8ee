"""The bridge: everything done to an ONNX file. It needs onnx, numpy and onnxruntime; neither torch nor a GPU."""
