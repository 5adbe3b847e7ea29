"""The errors a user sees: one line each, with the exit code of the contract."""


class PplugError(Exception):
    """Something the user can mend. The message says what is wrong, the value seen and the next command to type."""

    exit_code = 1


class UsageError(PplugError):
    """An option or a configuration value that cannot be right."""

    exit_code = 2


class InputMissing(PplugError):
    """A model, file, table or night that the command needs is not there."""

    exit_code = 4
