"""The command line: text to settings to a call. The one place that prints and exits."""
