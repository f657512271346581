"""The two parts of a request that touch pixels: before the network, and after it. Plain functions, run in threads."""

import math
from dataclasses import dataclass

import numpy as np

from mattebox_server.admission.budget import Share
from mattebox_server.engine.inference import Inference
from mattebox_server.errors import InvalidRequest, Violation
from mattebox_server.imaging import codec, colors, headers
from mattebox_server.imaging.codec import Photo
from mattebox_server.imaging.headers import PhotoLimits
from mattebox_server.imaging.pixels import Pixels, resize, shrink_fast
from mattebox_server.imaging.preprocess import ModelInput, content_size, preprocess
from mattebox_server.imaging.rectangle import Rectangle, around_subject, whole
from mattebox_server.matting.backdrop import blurred, continue_subject, cover, plain
from mattebox_server.matting.blend import composite, cutout, restore
from mattebox_server.matting.matte import Matte, hard_mask, make_matte
from mattebox_server.matting.subjects import Subject, find_subjects
from mattebox_server.records import Timeline
from mattebox_server.request import (
    BYTES_A_PIXEL,
    Background,
    BlurBackground,
    ColorBackground,
    ImageBackground,
    ImageFormat,
    OutputOptions,
    RawPhoto,
    RemovalRequest,
    SizeMode,
    TransparentBackground,
)
from mattebox_server.spec import ModelSpec

Size = tuple[int, int]  # width and height in pixels

# The limits of libpng, libjpeg and libwebp.
_MAX_SIDE_PX = {ImageFormat.PNG: 1_000_000, ImageFormat.JPEG: 65_500, ImageFormat.WEBP: 16_383}
_WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Prepared:
    """A photo on its way into the network."""

    photo: Photo  # upright, at the size of the answer before a crop; its pixels will change
    model_input: ModelInput
    backdrop: Pixels | None  # the background picture in the photo's colour space; at its own size before a crop


@dataclass(frozen=True)
class Composite:
    """An encoded answer."""

    image: bytes  # the composite, or the matte for `alpha_only`
    format: ImageFormat
    size: Size  # of the image
    channels: int  # 1 grey, 3 colour, 4 with alpha
    alpha: bytes | None  # the matte as PNG, if the request includes it
    subjects: tuple[Subject, ...]  # from the largest to the smallest


def prepare(request: RemovalRequest, spec: ModelSpec, limits: PhotoLimits, memory: Share, times: Timeline) -> Prepared:
    """Decodes what the request brings and makes the model's input of it: the stages `decode` and `preprocess`.

    Raises BadPhoto or PhotoTooLarge if the photo or the background picture is at fault, InvalidRequest if the format of
    the answer can't hold its size, and Overloaded if there is no memory for so many pixels now.
    """
    with times.stage("decode"):
        photo, size = _load(request, spec, limits, memory)
        backdrop = None
        if isinstance(request.background, ImageBackground):
            backdrop = _load_backdrop(request.background.data, limits, memory, photo.profile)
            backdrop = backdrop if request.output.crop_margin_px is not None else cover(backdrop, *size)
    with times.stage("preprocess"):
        # The size MODEL shows the very pixels that the network gets, as the classic recipe does.
        exact = request.output.size is SizeMode.MODEL
        model_input = preprocess(photo.bgr, spec.resize, exact)
        bgr = model_input.geometry.crop(model_input.image).copy() if exact else shrink_fast(photo.bgr, *size)
        alpha = None if photo.alpha is None else resize(photo.alpha, *size)
        return Prepared(Photo(bgr, alpha, photo.profile), model_input, backdrop)


def _load(request: RemovalRequest, spec: ModelSpec, limits: PhotoLimits, memory: Share) -> tuple[Photo, Size]:
    """Returns the photo, no larger than it must be, and the size of the answer before a crop."""
    photo, output = request.photo, request.output
    if isinstance(photo, RawPhoto):
        headers.check_bytes(len(photo.data), limits, "raw.data")
        headers.check_pixels(photo.width_px, photo.height_px, limits, "raw")
        size = _answer_size(photo.width_px, photo.height_px, output, spec)
        memory.take(BYTES_A_PIXEL * max(photo.width_px * photo.height_px, math.prod(size)), "raw")
        return codec.from_raw(photo), size
    header = headers.probe(photo.data, limits, "encoded")
    size = _answer_size(header.width_px, header.height_px, output, spec)
    reduction = 1
    if output.size is not SizeMode.MODEL:
        model_size = content_size(header.width_px, header.height_px, spec.resize)
        reduction = codec.reduction_for(header, max(size[0], model_size[0]), max(size[1], model_size[1]))
    memory.take(BYTES_A_PIXEL * max(header.pixels // reduction**2, math.prod(size)), "encoded")
    return codec.decode(photo.data, header, "encoded", reduction), size


def _answer_size(width_px: int, height_px: int, output: OutputOptions, spec: ModelSpec) -> Size:
    """Returns the size of the answer to a photo of this size. Raises InvalidRequest if its format can't hold it."""
    size = width_px, height_px
    if output.size is SizeMode.MODEL:
        size = content_size(width_px, height_px, spec.resize)
    elif isinstance(output.size, int):
        scale = min(1.0, output.size / max(size))
        size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    _check_format_holds(output.format, size, "output.format")
    if output.include_alpha:
        _check_format_holds(ImageFormat.PNG, size, "output.include_alpha")
    return size


def _load_backdrop(data: bytes, limits: PhotoLimits, memory: Share, profile: bytes | None) -> Pixels:
    header = headers.probe(data, limits, "background.image")
    memory.take(BYTES_A_PIXEL * header.pixels, "background.image")
    picture = codec.decode(data, header, "background.image")
    if picture.alpha is not None:
        composite(picture.bgr, picture.alpha, plain(header.width_px, _WHITE))
    return colors.convert(picture.bgr, picture.profile, profile)


def kept_classes(spec: ModelSpec, keep: tuple[str, ...]) -> frozenset[int]:
    """Returns the indices of the classes that are the subject; empty `keep` means all but the background.

    Raises InvalidRequest, which names every label that the model doesn't have.
    """
    if not keep:
        return spec.foreground_classes
    unknown = f"is no label of {spec.name}, which has {', '.join(spec.labels)[:400]}"
    places = [(place, label) for place, label in enumerate(keep) if label not in spec.labels]
    if places:
        raise InvalidRequest(*(Violation(f"keep[{place}]", f"{label[:64]!r} {unknown}") for place, label in places))
    return frozenset(spec.labels.index(label) for label in keep)


def _check_format_holds(image_format: ImageFormat, size: Size, field: str) -> None:
    limit = _MAX_SIDE_PX.get(image_format)
    if limit is not None and max(size) > limit:
        what = f"{image_format.name} holds at most {limit} pixels a side, the output has {size[0]}x{size[1]}"
        raise InvalidRequest(Violation(field, what))


@dataclass(frozen=True)
class Found:
    """The network's maps of a prepared photo, and how they are to be read."""

    spec: ModelSpec
    kept: frozenset[int]  # the indices of the classes that are the subject
    inference: Inference


def finish(request: RemovalRequest, prepared: Prepared, found: Found, times: Timeline) -> Composite:
    """Makes the answer from the network's maps: the stages `matte` and `encode`. The prepared photo changes."""
    output, photo, geometry = request.output, prepared.photo, prepared.model_input.geometry
    with times.stage("matte"):
        classes = None if found.inference.classes is None else geometry.crop(found.inference.classes)
        probability = geometry.crop(found.inference.foreground)
        mask = hard_mask(probability, classes, found.kept)
        matte = make_matte(photo.bgr, probability, mask, request.matte)
        alpha = matte.alpha if photo.alpha is None else np.minimum(matte.alpha, photo.alpha)
        frame = whole(alpha) if output.crop_margin_px is None else around_subject(alpha, output.crop_margin_px)
        size = alpha.shape[1], alpha.shape[0]
        subjects = find_subjects(mask, classes, found.spec.labels, size, frame)
        pixels = frame.crop(alpha) if output.alpha_only else _compose(request, prepared, matte, alpha, frame)
    with times.stage("encode"):
        image = codec.encode(pixels, output.format, output.quality, photo.profile)
        alpha_png = codec.encode(frame.crop(alpha), ImageFormat.PNG, 0) if output.include_alpha else None
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return Composite(image, output.format, (frame.width_px, frame.height_px), channels, alpha_png, subjects)


def _compose(request: RemovalRequest, prepared: Prepared, matte: Matte, alpha: Pixels, frame: Rectangle) -> Pixels:
    """The frame's colours on their background, (H, W, 3) BGR, or as a cutout, (H, W, 4) BGRA."""
    photo = prepared.photo.bgr
    behind = _behind(request.background, prepared, alpha, frame)  # before the photo changes
    restorer = matte.restorer
    if restorer is not None and frame != whole(alpha):
        restore(photo, alpha, restorer)  # it knows the whole photo only
        restorer = None
    photo, alpha = frame.crop(photo), frame.crop(alpha)
    if behind is not None:
        composite(photo, alpha, behind, restorer)
        return photo
    if request.output.format.has_alpha:
        return cutout(photo, alpha, restorer)
    if restorer is not None:
        restore(photo, alpha, restorer)
    continue_subject(photo, alpha)
    return photo


def _behind(background: Background, prepared: Prepared, alpha: Pixels, frame: Rectangle) -> Pixels | None:
    """Makes what `composite` puts behind the subject; None for a transparent background."""
    match background:
        case ColorBackground(bgr=color):
            pixel = colors.convert(plain(1, color), None, prepared.photo.profile)
            return np.repeat(pixel, frame.width_px, axis=1)
        case ImageBackground():
            return None if prepared.backdrop is None else cover(prepared.backdrop, frame.width_px, frame.height_px)
        case BlurBackground(sigma_px=sigma_px):
            return frame.crop(blurred(prepared.photo.bgr, alpha, sigma_px))
        case TransparentBackground():
            return None
