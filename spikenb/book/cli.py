"""The command `spikenb`: `spikenb campaign` and `spikenb pack`."""

import argparse
import sys

from .. import downloads
from . import campaign


def parser():
    """The command line of `spikenb`, of which `campaign` reads its own part."""
    top = argparse.ArgumentParser(prog="spikenb", description="The tools of the book on why training losses spike.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("campaign", help="run chapters over seeds and keep every result", add_help=False)
    pack = commands.add_parser("pack", help="write a set of images as one file, NAME.npz, for SPIKENB_DATA")
    pack.add_argument("name", metavar="NAME", choices=downloads.SETS, help=", ".join(downloads.SETS))
    pack.add_argument("--folder", default=".", help="where the file goes (here)")
    pack.add_argument("--train", type=int, metavar="N", help="the first N training images alone")
    pack.add_argument("--test", type=int, metavar="N", help="the first N test images alone")
    return top


def main(arguments=None):
    """The console command `spikenb`; its exit status is campaign's, or 0, or 2 for bad input or data not to be had."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["campaign"]:
        return campaign.main(arguments)
    options = parser().parse_args(arguments)
    try:
        path = downloads.pack(options.name, options.folder, options.train, options.test)
    except KeyboardInterrupt:
        print("interrupted; what was downloaded whole is kept", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"spikenb pack: {error}", file=sys.stderr)
        return 2
    print(f"{path} is written; set SPIKENB_DATA to {path.parent.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
