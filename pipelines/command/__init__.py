"""The command line around the commands: options, settings, errors and what is shown."""
