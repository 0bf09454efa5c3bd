"""Errors of the store; each message is one sentence for the user."""


class StoreError(Exception):
    """A store cannot be read or written; the message says why and what to do."""


class NotAStore(StoreError):
    """There is no store at the path, or the store has no such split."""


class FormatMismatch(StoreError):
    """The store has another format, or its arrays are laid out differently."""


class IdentityMismatch(StoreError):
    """The store belongs to another dataset or another teacher."""


class IncompleteStore(StoreError):
    """Needed chunks have not been written yet."""


class CorruptStore(StoreError):
    """Files of the store are truncated, missing or changed."""


class InUse(StoreError):
    """Another process is writing there."""
