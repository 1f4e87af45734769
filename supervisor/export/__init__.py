"""Ship the record: what the log's entries are for a SIEM, and who takes them there.

`formats` are pure: an entry becomes events, and these become bytes. `sinks` send them, and say what
the other side has taken. The log stays the source of truth: a sink reads it from its cursor on, and
the cursor moves on the other side's word.
"""
