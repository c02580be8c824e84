"""Command line of ``tools/probe.py show``."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""


def main(args: argparse.Namespace) -> int | None:
    """Run the job and print what came out."""
    raise ValueError('show: not written yet.')
