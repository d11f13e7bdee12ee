"""The command line of ``image-api-server``."""

import argparse
import importlib.metadata
import logging
import os
import sys

from alauda_imageapi.cluster.server import ImageApiServer
from alauda_imageapi.cluster.settings import PREFIX, add_flags, read_settings
from alauda_registry.serving.file_limit import allow_many_open_files
from alauda_registry.serving.listening import bind_socket, describe_address
from alauda_registry.serving.logs import configure_logging
from alauda_registry.serving.starting import CannotStart

logger = logging.getLogger(__name__)

_DESCRIPTION = "Serve image.alauda.io/v1 to a cluster's kube-apiserver, until SIGTERM."
_EPILOG = f"""\
Every flag can also be given as a variable: --drain-delay is {PREFIX}DRAIN_DELAY.
imageapi/README.md ("image-api-server") has the rights it needs and how it is registered.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 it cannot be done, 2 it was not understood."""
    parser = argparse.ArgumentParser(
        prog="image-api-server",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = importlib.metadata.version("alauda-image-registry")
    parser.add_argument("--version", action="version", version=f"image-api-server {version}")
    add_flags(parser)
    given = parser.parse_args(arguments)
    try:
        settings, warnings = read_settings(given, os.environ)
        configure_logging(settings.log_level, settings.log_format, {})
        for warning in warnings:
            logger.warning("%s", warning)
        allow_many_open_files()
        server = ImageApiServer(settings)
        with bind_socket(settings.listen) as sock:
            address = describe_address(sock)
            server.serve(sock, lambda: logger.info("serving https://%s", address))
    except CannotStart as error:
        sys.stderr.write(f"image-api-server: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit:
        # uvicorn's way to say that the application did not start; the log has the reason.
        return 1
    return 0
