"""Extended headers and structured errors, byte by byte: extended.py SOCKET STRIPE_BYTES."""

import sys

from wire import *

path, stripe = sys.argv[1], int(sys.argv[2])

for style in ["structured", "extended"]:
    c = Client(path).go(style, allocation=True, name=b"a")
    assert c.flags >> 7 & 1, "DF"
    size = c.size
    payload = PAYLOAD_LEN if style == "extended" else 0
    ok = (0, []) if style == "extended" else (0, b"")

    # The whole device in one request, where 32 bits suffice or the header is wide.
    assert c.call(ZEROES, 0, size) == ok
    assert c.call(STATUS, 0, size) == (0, [(size, 3)])
    data = bytes(range(256)) * 32
    assert c.call(WRITE, 3 * stripe - 4096, 8192, payload | FUA, data) == ok
    assert c.call(STATUS, 0, size) == (0, [(2 * stripe, 3), (2 * stripe, 0), (size - 4 * stripe, 3)])
    assert c.call(STATUS, 1, size - 1, REQ_ONE) == (0, [(2 * stripe - 1, 3)])
    assert c.call(READ, stripe, 4 * stripe) == (
        0, bytes(2 * stripe - 4096) + data + bytes(2 * stripe - 4096))
    assert c.call(READ, 3 * stripe - 4096, 8192, DF) == (0, data)
    assert c.call(TRIM, 0, size, FUA) == ok and c.call(CACHE, 0, size) == ok and c.call(FLUSH) == ok
    assert c.call(READ, 3 * stripe - 4096, 8192, DF) == (0, bytes(8192))

    # Refusals: the right number, and a sentence. The connection goes on after each.
    refusals = [
        (EINVAL, READ, size, 1, 0), (EINVAL, READ, 1 << 63, 1, 0), (EINVAL, READ, 2 ** 64 - 1, 1, 0),
        (EINVAL, READ, 0, 0, 0), (EINVAL, READ, 0, (1 << 20) + 1, 0), (EINVAL, READ, 0, 1, REQ_ONE),
        (EINVAL, STATUS, size - 1, 2, 0), (EINVAL, STATUS, 0, 0, 0), (EINVAL, STATUS, 0, 1, DF),
        (EINVAL, TRIM, 2 ** 64 - 4096, 8192, 0), (ENOSPC, ZEROES, size - 1, 2, 0),
        (ENOTSUP, ZEROES, 1, 1, FAST_ZERO), (EINVAL, FLUSH, 1, 0, 0), (EINVAL, 8, 0, 1, 0),
        (EINVAL, 77, 0, 1, 0), (EINVAL, CACHE, size, 1, 0), (EINVAL, TRIM, 0, 1, 1 << 15),
    ]
    if style == "extended":
        refusals += [
            (EINVAL, READ, 0, 2 ** 64 - 1, 0), (EINVAL, TRIM, 1, 2 ** 64 - 1, 0),
            (EINVAL, STATUS, 0, 1 << 40, 0), (ENOSPC, ZEROES, 0, 1 << 63, 0), (EINVAL, WRITE, 0, 1, 0),
        ]
    for want, command, at, count, flags in refusals:
        error, text = c.call(command, at, count, flags)
        assert error == want and len(text) > 10, (command, at, count, flags, error, text)
    error, text = c.call(WRITE, size - 1, 2, payload, b"xy")
    assert error == ENOSPC and "beyond the end" in text, text
    error, text = c.call(WRITE, 0, (1 << 20) + 1, payload, bytes((1 << 20) + 1))
    assert error == EINVAL and "larger" in text, text
    if style == "extended":
        # A payload where none belongs is read away.
        for command in [READ, TRIM, STATUS, CACHE, 99]:
            assert c.call(command, 0, 8, PAYLOAD_LEN, b"whatever")[0] == EINVAL
    assert c.call(READ, 0, 1) == (0, b"\0")
    c.put_request(DISCONNECT)
    try:
        c.get(1)
    except Closed:
        pass
    else:
        raise AssertionError("a reply to a disconnect")

# Who agreed to wide headers has to choose with GO; and what is not there is refused in words.
c = Client(path)
c.hello()
assert c.option(STARTTLS)[0][0] == UNSUPPORTED
assert c.option(SET_META, contexts(b"", b"base:allocation"))[0][0] == INVALID
kind, text = c.option(GO, b"\0\0\0\4pond\0\0")[0]
assert kind == UNKNOWN and b'"a"' in text, text
assert c.option(EXTENDED) == [(ACK, b"")]
c.put_option(EXPORT_NAME, b"a")
try:
    c.get(1)
except Closed:
    pass
else:
    raise AssertionError("EXPORT_NAME after EXTENDED_HEADERS")
