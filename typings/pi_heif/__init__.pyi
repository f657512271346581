from typing import ClassVar

class options:
    DECODE_THREADS: ClassVar[int]

def register_heif_opener(*, thumbnails: bool = ..., depth_images: bool = ..., aux_images: bool = ...) -> None: ...
