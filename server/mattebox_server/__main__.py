"""Entry point of `mattebox-server`."""

import os
import sys
import warnings


def main() -> int:
    """Runs the server; returns the exit code: 0 after a signal, 1 if it can't start, 2 for wrong settings."""
    try:
        return _main(sys.argv[1:])
    except KeyboardInterrupt:  # before the server listens to signals itself
        return 130


def _main(argv: list[str]) -> int:
    from mattebox_server.errors import StartupError  # noqa: PLC0415
    from mattebox_server.settings import load_settings  # noqa: PLC0415

    try:
        settings = load_settings(argv)
    except StartupError as error:
        sys.stderr.write(f"mattebox-server: {error}\n")
        return 2
    if settings.list_models:
        from mattebox_export.listing import listing  # noqa: PLC0415

        sys.stdout.writelines(f"{line}\n" for line in listing(settings.cache))
        return 0
    # OpenCV reads these when it is loaded, so before the imports below. The first is a second line of defence against
    # files whose header says one thing to the size check and another to the decoder; the second keeps hostile files
    # from filling the log.
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(settings.max_photo_pixels)
    os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
    # Pillow warns of each entry of broken EXIF: one photo could print megabytes.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    from mattebox_server.app import run  # noqa: PLC0415

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
