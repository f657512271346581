"""The background removal of the servers that have none of their own: from a JPEG file to a PNG cutout, in plain code.

This module runs in each peer's own environment, beside the server's script.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cut = Callable[[bytes], bytes]

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_SIDE_PX = 320


def cutter(model: Path, threads: int) -> Cut:
    """Returns the function from a photo's file to a cutout's.

    Args:
        model: file of U²-Net-p, as rembg has it.
        threads: number of ONNX Runtime's threads for "same engine"; 0 for rembg as it is installed.
    """
    return _same_engine(model, threads) if threads else _shipped()


def _shipped() -> Cut:
    """Returns rembg's own function, which people put into such servers. It finds the network in U2NET_HOME."""
    import rembg  # noqa: PLC0415 - takes seconds, and only this way needs it

    session = rembg.new_session("u2netp")
    return lambda photo: rembg.remove(photo, session=session)


def _same_engine(model: Path, threads: int) -> Cut:
    """Returns a function on OpenCV and ONNX Runtime's CPU provider in fp32, without needless copies."""
    import cv2  # noqa: PLC0415 - the import takes seconds, and only this way needs it
    import numpy as np  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    cv2.setNumThreads(1)  # the engine has the threads
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would slow down the photos that are processed at the same time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    fed, fused = session.get_inputs()[0].name, session.get_outputs()[0].name

    mean, std = np.asarray(_MEAN, np.float32), np.asarray(_STD, np.float32)

    def cut(photo: bytes) -> bytes:
        image = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError("the photo can't be decoded")
        small = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
        rgb: Any = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.float32)
        rgb = (rgb / max(float(rgb.max()), 1e-6) - mean) / std
        found: Any = session.run([fused], {fed: np.ascontiguousarray(rgb.transpose(2, 0, 1))[np.newaxis]})[0]
        coarse = np.asarray((found - found.min()) * (255 / max(float(np.ptp(found)), 1e-6)), np.uint8)[0, 0]
        matte = np.asarray(cv2.resize(coarse, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)
        image[..., 3] = matte
        image[matte == 0] = 0  # as rembg and Mattebox do: the file is smaller and hides nothing of what was removed
        return cv2.imencode(".png", image)[1].tobytes()

    return cut


def arguments() -> argparse.Namespace:
    """Parses the arguments of every server's script: port, model file, engine threads (0 for "as shipped")."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    return parser.parse_args()
