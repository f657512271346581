"""The two halves of a request that touch pixels: up to the network, and after it. Plain functions, run in threads."""

import time
from dataclasses import dataclass

import numpy as np

from mattebox_server import blend, codec
from mattebox_server.admission import Permit
from mattebox_server.codec import Limits, Photo
from mattebox_server.engine.inference import Inference
from mattebox_server.errors import InvalidRequest, Violation
from mattebox_server.matte import hard_mask, make_matte
from mattebox_server.options import (
    ColorBackground,
    EncodedPhoto,
    ImageBackground,
    ImageFormat,
    RawPhoto,
    RemovalRequest,
    SizeMode,
)
from mattebox_server.pixels import Pixels, resize
from mattebox_server.preprocess import ModelInput, content_size, preprocess
from mattebox_server.spec import ModelSpec
from mattebox_server.subjects import Subject, find_subjects

# Of the formats' own libraries: libpng, libjpeg, libwebp.
_MAX_SIDE_PX = {ImageFormat.PNG: 1_000_000, ImageFormat.JPEG: 65_500, ImageFormat.WEBP: 16_383}
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Prepared:
    """A photo on its way into the network.

    Args:
        photo: upright, at its own size.
        model_input: what the network gets.
        output_size: width and height of the answer in pixels.
        backdrop: uint8 (height, width, 3) BGR at the size of the answer, if the background is a picture.
        decode_s: seconds that decoding took.
        preprocess_s: seconds that preprocessing took.
    """

    photo: Photo
    model_input: ModelInput
    output_size: tuple[int, int]
    backdrop: Pixels | None
    decode_s: float
    preprocess_s: float


@dataclass(frozen=True)
class Finished:
    """An encoded answer.

    Args:
        image: the composite, or the matte for `alpha_only`.
        channels: of `image`: 1 grey, 3 colour, 4 with alpha.
        alpha: the matte as PNG, if it was asked for.
        subjects: what was found, largest first.
        matte_s: seconds that matte and blend took.
        encode_s: seconds that encoding took.
    """

    image: bytes
    channels: int
    alpha: bytes | None
    subjects: tuple[Subject, ...]
    matte_s: float
    encode_s: float


def prepare(request: RemovalRequest, spec: ModelSpec, limits: Limits, permit: Permit) -> Prepared:
    """Decodes what the request brings and makes the model's input of it.

    Raises:
        BadPhoto, PhotoTooLarge: photo or background picture.
        InvalidRequest: the format of the answer can't hold its size.
        Overloaded: no room for so many pixels now.
    """
    started_s = time.monotonic()
    photo = _load(request.photo, limits, permit)
    size = output_size(photo, request.output.size, spec)
    _check_format_holds(request.output.format, size, "output.format")
    if request.output.include_alpha:
        _check_format_holds(ImageFormat.PNG, size, "output.include_alpha")
    backdrop = None
    if isinstance(request.background, ImageBackground):
        backdrop = blend.cover(_load_picture(request.background.data, limits, permit), *size)
    decoded_s = time.monotonic()
    model_input = preprocess(photo.bgr, spec.resize)
    return Prepared(photo, model_input, size, backdrop, decoded_s - started_s, time.monotonic() - decoded_s)


def _load(photo: EncodedPhoto | RawPhoto, limits: Limits, permit: Permit) -> Photo:
    if isinstance(photo, EncodedPhoto):
        return _decode(photo.data, limits, permit, "encoded")
    codec.check_bytes(len(photo.data), limits, "raw.data")
    codec.check_pixels(photo.width_px, photo.height_px, limits, "raw")
    permit.add_pixels(photo.width_px * photo.height_px)
    return codec.from_raw(photo)


def _load_picture(data: bytes, limits: Limits, permit: Permit) -> Pixels:
    picture = _decode(data, limits, permit, "background.image")
    return picture.bgr if picture.alpha is None else blend.over_color(picture.bgr, picture.alpha, _WHITE)


def _decode(data: bytes, limits: Limits, permit: Permit, field: str) -> Photo:
    header = codec.probe(data, limits, field)
    permit.add_pixels(header.pixels)
    return codec.decode(data, header, field)


def kept_classes(spec: ModelSpec, keep: tuple[str, ...]) -> frozenset[int]:
    """Indices of the classes that are the subject; empty `keep` means all but the background.

    Raises:
        InvalidRequest: a label that the model doesn't have.
    """
    if not keep:
        return spec.foreground_classes
    known = ", ".join(spec.labels)
    unknown = [
        Violation(f"keep[{position}]", f"{label[:64]!r} is no label of {spec.name}, which has {known[:400]}")
        for position, label in enumerate(keep)
        if label not in spec.labels
    ]
    if unknown:
        raise InvalidRequest(*unknown)
    return frozenset(spec.labels.index(label) for label in keep)


def output_size(photo: Photo, size: SizeMode | int, spec: ModelSpec) -> tuple[int, int]:
    """Width and height of the answer in pixels."""
    height, width = photo.bgr.shape[:2]
    if size is SizeMode.ORIGINAL:
        return width, height
    if size is SizeMode.MODEL:
        return content_size(width, height, spec.resize)
    scale = min(1.0, size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _check_format_holds(image_format: ImageFormat, size: tuple[int, int], field: str) -> None:
    limit = _MAX_SIDE_PX.get(image_format)
    if limit is not None and max(size) > limit:
        what = f"{image_format.name} holds at most {limit} pixels a side, the output has {size[0]}x{size[1]}"
        raise InvalidRequest(Violation(field, what))


def finish(
    request: RemovalRequest, spec: ModelSpec, kept: frozenset[int], prepared: Prepared, found: Inference
) -> Finished:
    """Makes the answer of what the network found."""
    started_s = time.monotonic()
    geometry = prepared.model_input.geometry
    classes = None if found.classes is None else geometry.crop(found.classes)
    mask = hard_mask(geometry.crop(found.foreground), classes, kept)
    subjects = find_subjects(mask, classes, spec.labels, prepared.output_size)
    alpha = resize(make_matte(mask, request.matte), *prepared.output_size)
    if prepared.photo.alpha is not None:
        alpha = np.minimum(alpha, resize(prepared.photo.alpha, *prepared.output_size))
    pixels = alpha if request.output.alpha_only else _compose(request, prepared, alpha)
    blended_s = time.monotonic()
    image = codec.encode(pixels, request.output.format, request.output.quality)
    alpha_png = codec.encode(alpha, ImageFormat.PNG, 0) if request.output.include_alpha else None
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return Finished(image, channels, alpha_png, subjects, blended_s - started_s, time.monotonic() - blended_s)


def _compose(request: RemovalRequest, prepared: Prepared, alpha: Pixels) -> Pixels:
    if request.output.size is SizeMode.MODEL:
        foreground = prepared.model_input.geometry.crop(prepared.model_input.image)
    else:
        foreground = resize(prepared.photo.bgr, *prepared.output_size)
    if prepared.backdrop is not None:
        return blend.over_image(foreground, alpha, prepared.backdrop)
    if isinstance(request.background, ColorBackground):
        return blend.over_color(foreground, alpha, request.background.bgr)
    return blend.cutout(foreground, alpha)
