"""TensorRT from a bundle's ONNX file: built on the board, cached and checked."""
