"""The demo pool: small Llamas trained from scratch on word tasks, with held-out suites.

Everything comes from packages of the `demo` extra; nothing here may need a network or a model hub.
"""
