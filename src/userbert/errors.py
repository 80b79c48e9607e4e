"""Exceptions that userbert raises on purpose.

```
UserBertError
├── InputError          the user's input is not usable; the command line exits with 2
│   ├── SchemaError     schema.yaml is not valid
│   ├── SourceError     a raw log does not match the schema
│   ├── DataError       a prepared data folder is damaged, or not prepared data
│   ├── ModelError      a model folder is damaged, or does not fit the data
│   └── LabelError      labels are not usable, or leak the future
└── ClusterError        a job on a cluster failed
```

Each message says what was read, where, what was expected, what was found, and what to do.
Any other exception is a bug in userbert; the command line exits with 1.
"""


class UserBertError(Exception):
    """Base of all errors that userbert raises on purpose."""


class InputError(UserBertError):
    """The user's input is not usable; the message says what to change."""


class SchemaError(InputError):
    """The schema is not valid."""


class SourceError(InputError):
    """A raw log does not match the schema."""


class DataError(InputError):
    """A prepared data folder is damaged, or not prepared data."""


class ModelError(InputError):
    """A model folder is damaged, or does not fit the data."""


class LabelError(InputError):
    """Labels are not usable, or leak the future."""


class ClusterError(UserBertError):
    """A job on a cluster failed."""
