"""The command line: gathers options, calls the library, prints."""
