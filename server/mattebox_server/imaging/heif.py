"""HEIC photos, which phones make. They are read where the package pi-heif is installed, which the extra `heif` does."""

from PIL import Image

FORMAT = "HEIF"
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # of ISO/IEC 23008-12


def enable() -> bool:
    """Makes Pillow read HEIC photos from now on, in the whole process; returns whether that is possible."""
    try:
        import pi_heif  # noqa: PLC0415 - it may not be installed
    except ImportError:
        return False
    pi_heif.options.DECODE_THREADS = 1  # photos are the unit of parallelism
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def is_enabled() -> bool:
    """Whether HEIC photos can be read."""
    return FORMAT in Image.OPEN


def is_heif(data: bytes) -> bool:
    """Whether a file says that it is HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS
