-- SPDX-License-Identifier: Apache-2.0
CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c REAL);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ROWS)
  INSERT INTO t SELECT i, i * 7919 % 10007, 'row ' || (i * 104729 % 99991), i * 0.5 FROM n;
COMMIT;
CREATE INDEX ta ON t(a);
SELECT count(*), sum(a), sum(c), max(b) FROM t;
SELECT a, count(*), sum(c) FROM t WHERE b LIKE '%77%' GROUP BY a ORDER BY 3 DESC, 1 LIMIT 10;
SELECT count(*) FROM t x JOIN t y ON x.a = y.a WHERE x.id % 50 = 0;
UPDATE t SET c = c + 1 WHERE a BETWEEN 1000 AND 3000;
DELETE FROM t WHERE id % 3 = 0;
SELECT count(*), sum(c) FROM t;
