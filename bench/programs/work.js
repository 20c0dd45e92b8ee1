// SPDX-License-Identifier: Apache-2.0
// Typed arrays, objects, closures, strings, JSON, maps, regular expressions and freshly compiled functions for an optimising JIT.
'use strict';
const n = Number(process.argv[2]);
function sieve(size) {
  const flags = new Uint8Array(size + 1);
  let count = 0;
  for (let i = 2; i <= size; i++) {
    if (flags[i]) continue;
    count++;
    for (let j = i * i; j <= size; j += i) flags[j] = 1;
  }
  return count;
}
class Point {
  constructor(x, y) { this.x = x; this.y = y; }
  plus(o) { return new Point(this.x + o.x, this.y + o.y); }
  times(f) { return new Point(this.x * f, this.y * f); }
}
function orbit(steps) {
  let p = new Point(1, 0), v = new Point(0, 1);
  for (let i = 0; i < steps; i++) {
    const r2 = p.x * p.x + p.y * p.y;
    v = v.plus(p.times(-0.001 / (r2 * Math.sqrt(r2))));
    p = p.plus(v.times(0.001));
  }
  return (p.x + p.y).toFixed(9);
}
function strings(count) {
  const seen = new Map();
  let seed = 7;
  for (let i = 0; i < count; i++) {
    seed = seed * 16807 % 2147483647;
    const key = 'k' + seed % 5003;
    seen.set(key, (seen.get(key) || 0) + key.length);
  }
  const text = JSON.stringify([...seen].sort());
  return [seen.size, text.length, text.replace(/k(\d)(\d*)/g, '$2$1').length, JSON.parse(text).filter(([, v]) => v > 100).length].join(' ');
}
function fresh(count) {
  let total = 0;
  for (let i = 0; i < count; i++) total += new Function('x', `let s = ${i}; for (let i = 0; i < x; i++) s += i % ${i + 2}; return s;`)(20000);
  return total;
}
console.log(sieve(30000 * n), orbit(15000 * n), strings(3000 * n), fresh(2 * n));
