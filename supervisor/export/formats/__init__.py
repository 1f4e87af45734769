"""What an entry of the log looks like to who gets it: OCSF, ECS, CEF, or our own JSON."""
