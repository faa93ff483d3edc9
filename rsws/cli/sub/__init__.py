"""``rsws sub``: the messages of channels on standard output, or handed to a command."""

from rsws.cli.sub.command import EPILOG as EPILOG
from rsws.cli.sub.command import sub as sub
