"""The harness of tests/lab, for all tests below."""

pytest_plugins = ["harness.plugin", "harness.guests", "harness.fixtures", "harness.templates"]
