"""Makes TIFF files by hand: of any number of bits, kind of sample and compression, with tags that may lie."""

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import exif

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
MIN_IS_WHITE, GREY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6


def shorts(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


def longs(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def tiff(
    samples: NDArray[np.number],
    bits: int,
    photometric: int,
    *,
    sample_format: int = UNSIGNED,
    compression: int = 1,
    compress: Callable[[bytes], bytes] = bytes,
    in_planes: bool = False,
    tags: tuple[exif.Entry, ...] = (),
) -> bytes:
    """Makes a file of one strip, or of one strip for each channel.

    Args:
        samples: (H, W, channels); integers below 2 ** bits, or floating point of the type that is stored.
        bits: the number of bits of a sample.
        photometric: the meaning of the channels.
        sample_format: the meaning of the bits.
        compression: the number of the compression.
        compress: the function that compresses the bytes of a strip.
        in_planes: whether each channel is stored apart.
        tags: further tags, or tags that replace those that follow from the other arguments.
    """
    height, width, channels = samples.shape
    planes = [samples[..., [channel]] for channel in range(channels)] if in_planes else [samples]
    strips = [compress(packed(plane.reshape(height, -1), bits)) for plane in planes]

    def directory(at: int) -> bytes:
        starts = [at + sum(map(len, strips[:number])) for number in range(len(strips))]
        entries = {
            256: (256, exif.LONG, 1, longs(width)),
            257: (257, exif.LONG, 1, longs(height)),
            258: (258, exif.SHORT, channels, shorts(*[bits] * channels)),
            259: (259, exif.SHORT, 1, shorts(compression)),
            262: (262, exif.SHORT, 1, shorts(photometric)),
            273: (273, exif.LONG, len(strips), longs(*starts)),
            277: (277, exif.SHORT, 1, shorts(channels)),
            278: (278, exif.LONG, 1, longs(height)),
            279: (279, exif.LONG, len(strips), longs(*map(len, strips))),
            284: (284, exif.SHORT, 1, shorts(2 if in_planes else 1)),
            339: (339, exif.SHORT, channels, shorts(*[sample_format] * channels)),
        }
        entries.update({tag[0]: tag for tag in tags})
        return exif.block(*sorted(entries.values()))

    return directory(len(directory(0))) + b"".join(strips)


def packed(rows: NDArray[np.number], bits: int) -> bytes:
    """Packs rows of samples into bytes, the highest bit first. Each row begins with a new byte."""
    if rows.dtype.kind == "f" or bits in {8, 16, 32}:
        kind = rows.dtype if rows.dtype.kind == "f" else np.dtype(f"u{bits // 8}")
        return rows.astype(kind.newbyteorder("<")).tobytes()
    each = (rows[..., np.newaxis].astype(np.int64) >> np.arange(bits)[::-1]) & 1
    return np.packbits(each.astype(np.uint8).reshape(len(rows), -1), axis=1).tobytes()


def old_jpeg(jpeg: bytes, width: int, height: int, subsampling: tuple[int, int] = (2, 2)) -> bytes:
    """Makes a file of the kind of 1992: a whole JPEG file, and tags that say where it lies."""

    def directory(at: int) -> bytes:
        shared = ((273, at), (279, len(jpeg)), (513, at), (514, len(jpeg)), (256, width), (257, height), (278, height))
        entries = [(tag, exif.LONG, 1, longs(value)) for tag, value in shared]
        short = ((259, 6), (262, YCBCR), (277, 3), (284, 1), (512, 1))
        entries += [(tag, exif.SHORT, 1, shorts(value)) for tag, value in short]
        entries += [(258, exif.SHORT, 3, shorts(8, 8, 8)), (530, exif.SHORT, 2, shorts(*subsampling))]
        return exif.block(*sorted(entries))

    return directory(len(directory(0))) + jpeg


def tiled(width: int, height: int, tile: int, compress: Callable[[bytes], bytes], compression: int) -> bytes:
    """Makes a black file of one square tile, which may be far larger than the image."""
    strip = compress(bytes(tile * tile))

    def directory(at: int) -> bytes:
        large = ((256, width), (257, height), (322, tile), (323, tile), (324, at), (325, len(strip)))
        entries = [(tag, exif.LONG, 1, longs(value)) for tag, value in large]
        short = ((258, 8), (259, compression), (262, GREY), (277, 1))
        entries += [(tag, exif.SHORT, 1, shorts(value)) for tag, value in short]
        return exif.block(*sorted(entries))

    return directory(len(directory(0))) + strip
