"""One attack on an NBD server: hostile.py SOCKET ATTACK. It fails if the server does not behave;
what others notice of it is the caller's to find out. Writes go beyond byte 32 MiB alone."""

import random
import resource
import sys
import threading

from wire import *

path, attack = sys.argv[1], sys.argv[2]
MIB = 1 << 20
FREE = 32 * MIB
r = random.Random(1)


def connect(timeout=20):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(path)
    s.settimeout(timeout)
    return s


def drain(s):
    try:
        while s.recv(1 << 16):
            pass
    except (socket.timeout, ConnectionError):
        pass


def say(data):
    """Says it and leaves, reading what comes."""
    s = connect()
    try:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        drain(s)
    except ConnectionError:
        pass
    s.close()


def option(number, data, count=None):
    count = len(data) if count is None else count
    return struct.pack(">QII", OPTION_MAGIC, number, count) + data


def request(style, command, at, count, flags=0, cookie=1):
    if style == "extended":
        return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, at, count)
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, at, count)


HELLO = struct.pack(">I", 3)
GO_DATA = struct.pack(">IH", 0, 0)
START = {
    "simple": HELLO + option(GO, GO_DATA),
    "structured": HELLO + option(STRUCTURED, b"") + option(SET_META, contexts(b"", b"base:allocation"))
    + option(GO, GO_DATA),
    "extended": HELLO + option(EXTENDED, b"") + option(SET_META, contexts(b"", b"base:allocation"))
    + option(GO, GO_DATA),
}
STYLES = list(START)


def well():
    """A client that behaves is served."""
    c = Client(path, timeout=60).go()
    assert c.call(READ, 0, 4096)[0] == 0
    assert c.call(WRITE, FREE, 3, 0, b"abc") == (0, b"")
    c.close()


def garbage():
    for i in range(400):
        noise = r.randbytes(r.randrange(3000))
        kind = i % 4
        if kind == 0:
            say(noise)
        elif kind == 1:
            say(HELLO + option(r.randrange(14), noise, r.choice([0, 4, 6, 77, len(noise)])))
        elif kind == 2:
            say(START[r.choice(STYLES)] + noise)
        else:  # right magic, reads and questions with anything in them
            style = r.choice(STYLES)
            wide = 64 if style == "extended" else 32
            say(START[style] + b"".join(
                request(style, r.choice([0, 3, 5, 7, 8, 9, 65535]), r.getrandbits(r.randrange(1, 65)),
                        r.getrandbits(r.randrange(1, wide + 1)), r.randrange(32) & r.randrange(32), i)
                for _ in range(30)))


def halves():
    """Leaves, and stays, at every byte of a handshake, a request and a payload."""
    whole = START["structured"] + request("simple", WRITE, FREE, 64) + b"x" * 64
    for end in range(len(whole)):
        say(whole[:end])
    whole = START["extended"] + request("extended", WRITE, FREE, 64, PAYLOAD_LEN) + b"x" * 64
    for end in range(len(START["extended"]), len(whole)):
        say(whole[:end])
    # Twelve stay in the middle of a request or of a payload: four places are left to others.
    stay = []
    for i in range(12):
        style = STYLES[i % 3]
        c = Client(path).go(style)
        flags = PAYLOAD_LEN if style == "extended" else 0
        head = request(style, WRITE, FREE, MIB, flags)
        c.send(head[:r.randrange(1, len(head))] if i % 2 else head + bytes(r.randrange(MIB)))
        stay.append(c)
    for _ in range(50):
        well()
    for c in stay:
        c.close()


def bounds():
    """Places and lengths that do not fit, each answered with an error; then the connection goes on."""
    for style in STYLES:
        c = Client(path).go(style, allocation=style != "simple")
        size = c.size
        places = [0, 1, size - 1, size, size + 1, 1 << 32, 1 << 63, (1 << 63) - 1, 2 ** 64 - MIB, 2 ** 64 - 1]
        lengths = [0, 1, MIB + 1, 2 ** 32 - 1]
        if style == "extended":
            lengths += [1 << 32, 1 << 63, 2 ** 64 - 1]
        refused = 0
        for command in [READ, TRIM, CACHE, ZEROES, STATUS, 8, 9, 255, 65535]:
            for at in places:
                for count in lengths:
                    inside = at + count <= size and count > 0
                    largest = command != READ or count <= MIB
                    if command in (TRIM, ZEROES) and inside and at < FREE:
                        continue  # it would go well, and change what others hold
                    error = c.call(command, at, count)[0]
                    known = command in (READ, TRIM, CACHE, ZEROES) or (command == STATUS and style != "simple")
                    assert (error == 0) == (known and inside and largest), (style, command, at, count, error)
                    refused += error != 0
        assert refused > 100
        payload = PAYLOAD_LEN if style == "extended" else 0
        for at in [size - 1, size, 1 << 63, 2 ** 64 - 1]:
            for count in [2, 4096, MIB, MIB + 1, 3 * MIB]:
                assert c.call(WRITE, at, count, payload, bytes(count))[0] in (EINVAL, ENOSPC)
        assert c.call(READ, 0, 1)[0] == 0
        # A payload of 4 GiB is not waited for.
        c.put_request(WRITE, 0, 2 ** 32 - 1, payload)
        try:
            c.get(1)
        except Closed:
            pass
        else:
            raise AssertionError("it went on")


def options():
    def ends(c, data):
        try:
            c.send(data)
            while True:
                c.get(1)
        except (Closed, ConnectionError):
            c.close()

    # One too many; so many that the answers are never read; ones that are too long.
    c = Client(path)
    c.hello()
    for _ in range(64):
        assert c.option(LIST)[-1][0] == ACK
    ends(c, option(LIST, b""))
    for number in [0, LIST, INFO, GO, SET_META, LIST_META, 77]:
        for count in [(1 << 14) + 1, 1 << 20]:
            c = Client(path)
            c.hello()
            assert c.option(number, bytes(count))[-1][0] == TOO_BIG
            assert c.option(LIST)[-1][0] == ACK
            c.close()
        for count in [(1 << 20) + 1, 2 ** 32 - 1]:
            c = Client(path)
            c.hello()
            ends(c, option(number, b"", count))
    for _ in range(20):
        s = connect()
        try:
            s.sendall(HELLO + option(LIST_META, b"") * 5000)
        except (ConnectionError, socket.timeout):
            pass
        s.close()
    for queries in [0xffffffff, 1 << 20, 5000]:
        c = Client(path)
        c.hello()
        assert c.option(STRUCTURED) == [(ACK, b"")]
        assert c.option(SET_META, struct.pack(">II", 0, queries) + bytes(16000))[-1][0] == INVALID
        c.close()


def flood():
    """2000 connections: half of them come and go, half stay and say nothing, or a part."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2200)), hard))
    for i in range(1000):
        s = connect()
        if i % 3 == 0:
            s.sendall(HELLO[:i % 4])
        s.close()
    parts = [b"", HELLO[:2], HELLO, HELLO + option(LIST, b"")[:7], HELLO + option(GO, b"", 4000)]
    stay, errors = [], []

    def crowd():
        for i in range(1000):
            s = connect(timeout=60)
            try:
                s.sendall(parts[i % len(parts)])
            except ConnectionError:
                pass  # sent away already
            stay.append(s)

    def behave():
        try:
            for _ in range(5):
                well()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=crowd), threading.Thread(target=behave)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    well()
    assert len(stay) == 1000 and not errors, errors
    for s in stay:
        s.close()


def deaf():
    """Asks for much and takes nothing: it stalls itself alone. Fourteen at once."""
    stay = []
    for i in range(14):
        style = STYLES[i % 3]
        c = Client(path).go(style, allocation=style != "simple")
        c.socket.settimeout(0.5)
        # Data, refusals with their sentences, and lists of extents.
        asks = [request(style, READ, 0, MIB), request(style, READ, 1, MIB), request(style, 99, 0, 1),
                request(style, STATUS, 0, c.size)]
        try:
            for _ in range(2000):
                c.send(asks[i % 2] * 50 + asks[2] * 20 + asks[3] * 20)
        except socket.timeout:
            pass
        else:
            raise AssertionError("it took everything")
        stay.append(c)
    for _ in range(20):
        well()
    for c in stay:
        c.close()


globals()[attack]()
well()
