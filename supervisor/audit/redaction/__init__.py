"""Takes secrets out of what is recorded, before the first byte of it reaches the disk.

    literals    the values that we handed out ourselves, in every spelling they may come back in
    rules       what credentials of the world look like: a pack of regular expressions
    patience    ends the search for what only looks like a secret
    prefilter   says by Hyperscan, where it is asked for, that no rule matches: faster than RE2
    found       what was replaced, and where the bytes that are left are from
    validators  what tells a credential from a look-alike
    redactor    runs both over a stream, whatever its chunks, and over single values
    argv        does so for arguments that come in pieces

Nothing here reads a clock or writes a file, and nothing finds a secret that was changed on
purpose: whoever may print a secret may print it reversed.
"""
