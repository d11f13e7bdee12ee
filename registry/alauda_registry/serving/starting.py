"""What keeps a server from starting."""


class CannotStart(Exception):
    """The process cannot serve as it was asked to; the message says why and what to do."""
