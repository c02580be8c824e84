"""Command line of ``tools/probe.py classify``."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    raise ValueError('classify: not written yet.')
