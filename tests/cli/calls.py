"""Commands called within the test's own process."""

from typer.testing import CliRunner

from pharma_fl.cli import main as module
from pharma_fl.errors import PharmaFlError


def call(*arguments):
    """Call a command that succeeds."""
    result = CliRunner().invoke(module.app, [str(one) for one in arguments])
    if result.exception:
        raise result.exception
    return result


def refused(*arguments):
    """Call a command that is refused, and return the error's text."""
    result = CliRunner().invoke(module.app, [str(one) for one in arguments])
    assert isinstance(result.exception, PharmaFlError), result.output
    return str(result.exception)
