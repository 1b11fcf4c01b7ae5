"""The one exception that means "the user can mend this"; the CLI prints it as a line."""


class UserError(Exception):
    """A mistake in the input, told in one line.

    The message names the flag or file, what was received and what would be accepted. Library code
    raises it only for things that a user chose (a flag, a data set, a file); programming errors
    stay ``ValueError`` and ``TypeError``.
    """
