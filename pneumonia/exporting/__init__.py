"""Run folder to model bundle and ONNX."""
