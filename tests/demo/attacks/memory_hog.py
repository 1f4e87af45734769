"""Take memory for ever, and touch it."""

hoard = []
while True:
    hoard.append(bytearray(b"x") * (16 << 20))
