# SPDX-License-Identifier: Apache-2.0
"""A Python script of the usual kind: objects, dictionaries, strings, floats, big integers, generators."""
import hashlib
import sys


class Body:
    def __init__(self, x, v, m):
        self.x, self.v, self.m = x, v, m

    def step(self, others, dt):
        for o in others:
            if o is not self:
                d = o.x - self.x
                self.v += dt * o.m * d / (abs(d) ** 3 + 0.01)
        self.x += dt * self.v


def words(n):
    seed = 42
    for _ in range(n):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield "w%d" % (seed % 997)


def main(n):
    bodies = [Body(i * 1.5, 0.1 * i, 1.0 + i) for i in range(5)]
    for _ in range(60 * n):
        for body in bodies:
            body.step(bodies, 0.001)
    counts = {}
    for word in words(600 * n):
        counts[word] = counts.get(word, 0) + 1
    top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]
    text = ",".join("%s=%d" % item for item in top)
    lines = [line[::-1].upper() for line in (text * n).split(",") if "1" in line]
    big = 1
    for i in range(1, 20 * n):
        big = big * i % (1 << 521) + i
    print("%.9f" % sum(body.x for body in bodies), len(lines), text, hashlib.sha256(str(big).encode()).hexdigest())


main(int(sys.argv[1]))
