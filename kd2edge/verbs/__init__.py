"""The verbs, the table of contents of the tool: each is a module, with a function of the same name in it.

    from kd2edge.verbs.quantize import quantize

None is imported here: `kd2edge --help` must not wait for onnx, and a Jetson has no torch.
"""
