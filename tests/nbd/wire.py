"""A plain NBD client for the tests in this folder: the bytes of the protocol, by its document, and
nothing that a well-behaved client library would hide."""

import socket
import struct

OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x3E889045565A9
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
ACK, SERVER, INFO_REPLY, META = 1, 2, 3, 4
UNSUPPORTED, INVALID, UNKNOWN, TOO_BIG = (1 << 31 | n for n in (1, 3, 6, 9))
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << n for n in range(6))
EPERM, EIO, EINVAL, ENOSPC, ENOTSUP = 1, 5, 22, 28, 95


class Closed(Exception):
    """The server ended the connection."""


class Client:
    def __init__(self, path, timeout=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)  # blocking: where the backlog is full it waits
        self.socket.settimeout(timeout)
        self.style = "simple"
        self.cookie = 0

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def get(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionError:
                part = b""
            if not part:
                raise Closed(f"after {len(data)} of {count} bytes")
            data += part
        return bytes(data)

    def hello(self, flags=3):
        magic, option, server_flags = struct.unpack(">8sQH", self.get(18))
        assert magic == b"NBDMAGIC" and option == OPTION_MAGIC and server_flags == 3
        self.send(struct.pack(">I", flags))

    def put_option(self, option, data=b""):
        self.send(struct.pack(">QII", OPTION_MAGIC, option, len(data)) + data)

    def option(self, option, data=b""):
        """Its replies, as (kind, data); the last one is final."""
        self.put_option(option, data)
        replies = []
        while True:
            magic, to, kind, count = struct.unpack(">QIII", self.get(20))
            assert magic == OPTION_REPLY_MAGIC and to == option
            replies.append((kind, self.get(count)))
            if kind == ACK or kind >> 31:
                return replies

    def go(self, style="simple", allocation=False, name=b""):
        self.hello()
        if style != "simple":
            assert self.option(EXTENDED if style == "extended" else STRUCTURED) == [(ACK, b"")]
        self.style = style
        if allocation:
            replies = self.option(SET_META, contexts(name, b"base:allocation"))
            assert [r[0] for r in replies] == [META, ACK], replies
        replies = self.option(GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        assert replies[-1][0] == ACK, replies
        export = next(d for k, d in replies if k == INFO_REPLY and d[:2] == b"\0\0")
        self.size, self.flags = struct.unpack(">QH", export[2:])
        return self

    def put_request(self, command, at=0, count=0, flags=0, payload=b"", cookie=None):
        if cookie is None:
            self.cookie += 1
            cookie = self.cookie
        if self.style == "extended":
            head = struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, at, count)
        else:
            head = struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, at, count)
        self.send(head + payload)
        return cookie

    def chunk(self, count=0):
        """One message of the server: (cookie, error or 0, kind, last, what is in it)."""
        magic = struct.unpack(">I", self.get(4))[0]
        if magic == 0x67446698:
            assert self.style != "extended"
            error, cookie = struct.unpack(">IQ", self.get(12))
            data = self.get(count) if self.style == "simple" and not error else b""
            return cookie, error, "simple", True, data
        if self.style == "extended":
            assert magic == 0x6E8A278C, hex(magic)
            flags, kind, cookie, self.offset, length = struct.unpack(">HHQQQ", self.get(28))
        else:
            assert magic == 0x668E33EF and self.style == "structured", hex(magic)
            flags, kind, cookie, length = struct.unpack(">HHQI", self.get(16))
        assert length <= (1 << 20) + 8, length
        data = self.get(length)
        error = 0
        if kind >> 15:
            error, count = struct.unpack(">IH", data[:6])
            assert error and count == len(data) - 6
            data = data[6:].decode()
            assert data.endswith("."), data
        return cookie, error, kind, bool(flags & 1), data

    def call(self, command, at=0, count=0, flags=0, payload=b""):
        """One request: (error, what came). Content of a read is put together."""
        cookie = self.put_request(command, at, count, flags, payload)
        # More than this is refused, and no content comes.
        content, extents, seen = bytearray(count if command == READ and count <= 1 << 20 else 0), [], 0
        while True:
            got, error, kind, last, data = self.chunk(count if command == READ else 0)
            assert got == cookie
            if self.style == "extended":
                assert self.offset == at
            if error:
                assert last
                return error, data
            if kind == "simple":
                return 0, data
            if kind == 1:
                (offset,) = struct.unpack(">Q", data[:8])
                content[offset - at:offset - at + len(data) - 8] = data[8:]
                seen += len(data) - 8
            elif kind == 2:
                offset, length = struct.unpack(">QI", data)
                assert at <= offset and offset + length <= at + count
                seen += length
            elif kind == 5:
                assert self.style == "structured" and data[:4] == b"\0\0\0\1"
                extents = list(struct.iter_unpack(">II", data[4:]))
            elif kind == 6:
                assert self.style == "extended" and data[:4] == b"\0\0\0\1"
                extents = list(struct.iter_unpack(">QQ", data[8:]))
                assert struct.unpack(">I", data[4:8])[0] == len(extents)
            else:
                assert kind == 0 and not data, kind
            if last:
                if command == READ:
                    assert seen == count and len(content) == count
                    return 0, bytes(content)
                return 0, extents


def contexts(name, *queries):
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    return data + b"".join(struct.pack(">I", len(q)) + q for q in queries)
