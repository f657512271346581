"""Runs a TFLite file by MediaPipe's own interpreter: a script for a Python that finds MediaPipe in a given folder.

Only the extension module and its few helpers are imported: the whole package would import JAX, OpenCV and matplotlib.

    python -S mediapipe_graph.py FOLDER MODEL.tflite PHOTOS.npy ANSWERS.npy

FOLDER holds mediapipe, numpy and protobuf. PHOTOS are uint8 (N, H, W, 3) RGB at the size of the network's input, which
becomes their values divided by 255; ANSWERS become float32 (N, values of the output).
"""

import importlib
import sys
import types
from pathlib import Path
from typing import Any

GRAPH = """
input_stream: "photo"
output_stream: "answer"
node {{
  calculator: "ImageToTensorCalculator"
  input_stream: "IMAGE:photo"
  output_stream: "TENSORS:input"
  options: {{
    [mediapipe.ImageToTensorCalculatorOptions.ext] {{
      output_tensor_width: {width}
      output_tensor_height: {height}
      keep_aspect_ratio: false
      output_tensor_float_range {{ min: 0.0 max: 1.0 }}
    }}
  }}
}}
node {{
  calculator: "InferenceCalculatorCpu"
  input_stream: "TENSORS:input"
  output_stream: "TENSORS:output"
  options: {{
    [mediapipe.InferenceCalculatorOptions.ext] {{ model_path: "{model}" delegate {{ xnnpack {{}} }} }}
  }}
}}
node {{ calculator: "TensorsToFloatsCalculator" input_stream: "TENSORS:output" output_stream: "FLOATS:answer" }}
"""


def main(folder: str, model: str, photos_file: str, answers_file: str) -> None:
    """Runs the network on each photo."""
    sys.path.insert(0, folder)
    for name in ("mediapipe", "mediapipe.python"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(folder, *name.split(".")))]
        sys.modules[name] = package
    numpy: Any = importlib.import_module("numpy")
    bindings: Any = importlib.import_module("mediapipe.python._framework_bindings")
    create: Any = importlib.import_module("mediapipe.python.packet_creator")
    get: Any = importlib.import_module("mediapipe.python.packet_getter")
    photos = numpy.load(photos_file)
    answers: list[list[float]] = []

    def keep(_: str, packet: Any) -> None:
        answers.append(get.get_float_list(packet))

    _, height, width, _ = photos.shape
    text = GRAPH.format(width=width, height=height, model=model)
    graph = bindings.calculator_graph.CalculatorGraph(graph_config=text)
    graph.observe_output_stream("answer", keep)
    graph.start_run()
    for i, photo in enumerate(photos):
        frame = create.create_image_frame(photo, image_format=bindings.image_frame.ImageFormat.SRGB)
        graph.add_packet_to_input_stream("photo", frame.at(i + 1))
        graph.wait_until_idle()
    graph.close_all_packet_sources()
    graph.wait_until_done()
    numpy.save(answers_file, numpy.array(answers, numpy.float32))


if __name__ == "__main__":
    main(*sys.argv[1:])
