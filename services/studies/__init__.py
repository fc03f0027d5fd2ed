"""The life of a study: submit, advance, pause, resume, cancel, finish, read."""
