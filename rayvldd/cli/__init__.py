"""The command line: parses options and calls the library. Only this package prints and exits."""
