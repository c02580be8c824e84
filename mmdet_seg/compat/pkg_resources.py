"""Stand-in for ``pkg_resources``: the part by which mmengine asks for installed packages.

Needed because setuptools 82 dropped the module and mmengine 0.10.7 (``utils/package_utils.py``)
imports it to find configs of other packages (``mmseg::...``). Used only where the real one cannot
be imported. Delete it when mmengine asks ``importlib.metadata`` itself.
"""

from importlib import metadata

__all__ = ['Distribution', 'DistributionNotFound', 'get_distribution']


class DistributionNotFound(Exception):
    """The named distribution is not installed."""


class Distribution:
    """One installed distribution.

    Args:
        name: Name as pip knows it.

    Raises:
        DistributionNotFound: It is not installed.
    """

    def __init__(self, name: str) -> None:
        try:
            self._found = metadata.distribution(name)
        except (metadata.PackageNotFoundError, ValueError) as error:
            raise DistributionNotFound(f'No distribution {name!r} is installed.') from error
        self.project_name = self._found.metadata['Name']
        self.version = self._found.version
        self.location = str(self._found.locate_file(''))  # the folder that holds its modules

    def has_metadata(self, name: str) -> bool:
        """Whether the distribution has a metadata file ``name``."""
        return self._found.read_text(name) is not None

    def get_metadata(self, name: str) -> str:
        """Text of a metadata file.

        Raises:
            FileNotFoundError: There is none.
        """
        text = self._found.read_text(name)
        if text is None:
            raise FileNotFoundError(f'{self.project_name} has no metadata file {name!r}.')
        return text


def get_distribution(name: str) -> Distribution:
    """The installed distribution ``name``; raises DistributionNotFound."""
    return Distribution(name)
