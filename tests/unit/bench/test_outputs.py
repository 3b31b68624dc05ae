"""Tests parsing what load programs print, with real programs' output and with errors."""

from __future__ import annotations

import pytest

from bench.harness import outputs
from bench.harness.errors import BenchError

NETBENCH = ('{"count": 7882, "seconds": 0.500, "lost": 0, "p50_us": 64.8, "p99_us": 150.6, '
            '"p999_us": 297.2, "connect_p50_us": 20.6, "connect_p99_us": 55.9}')
WRK = """\
Running 1s test @ http://127.0.0.1:8080/
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   740.85us    1.50ms  24.88ms   92.15%
    Req/Sec    27.70k     3.61k   34.41k    75.00%
  Latency Distribution
     50%  406.00us
     75%  622.00us
     90%    1.31ms
     99%    1.02s
  55260 requests in 1.01s, 8.28MB read
Requests/sec:  54850.33
Transfer/sec:      8.21MB
"""
MEMCASLAP = """\
Get Statistics (36000 events)
   Min:        12
   Max:    133590
   Avg:       368
   Geo:    198.94

Total Statistics (40000 events)
   Min:        13
   Max:    133894
   Avg:       376
   Geo:    192.23

cmd_get: 36000
cmd_set: 4000

Run time: 0.6s Ops: 40000 TPS: 66082 Net_rate: 73.9M/s
"""
PGBENCH = """\
scaling factor: 4
number of transactions actually processed: 15972
number of failed transactions: 0 (0.000%)
latency average = 0.986 ms
initial connection time = 33.161 ms
tps = 16224.116420 (without initial connection time)
"""
REDIS = """\
====== GET ======
  20000 requests completed in 0.32 seconds
  32 parallel clients

Summary:
  throughput summary: 63291.14 requests per second
  latency summary (msec):
          avg       min       p50       p95       p99       max
        0.270     0.072     0.263     0.399     0.615     2.823
"""


def test_netbench() -> None:
    found = outputs.netbench(NETBENCH)
    assert found.units == 7882
    assert found.figures == {"": 15764.0, "p50": 64.8, "p99": 150.6, "p99.9": 297.2,
                             "connect p50": 20.6, "connect p99": 55.9}


def test_streams_and_messages() -> None:
    text = '{"bytes": 1250000000, "messages": 20000, "seconds": 2.0}'
    assert outputs.gigabits(text) == outputs.Outcome(1250, {"": 5.0})
    assert outputs.messages(text) == outputs.Outcome(20000, {"": 10000})


def test_wrk_with_all_its_units() -> None:
    found = outputs.wrk(WRK)
    assert found.units == 55260
    assert found.figures == {"": 54850.33, "p50": 406, "p99": 1.02e6}


def test_memcaslap_takes_the_total_not_the_gets() -> None:
    assert outputs.memcaslap(MEMCASLAP) == outputs.Outcome(40000, {"": 66082, "mean": 376})


def test_pgbench() -> None:
    found = outputs.pgbench(PGBENCH)
    assert found.units == 15972
    assert found.figures == {"": pytest.approx(16224.116), "mean": pytest.approx(986)}


def test_redis_benchmark() -> None:
    found = outputs.redis_benchmark(REDIS)
    assert found.units == 20000
    assert found.figures == {"": 63291.14, "p50": pytest.approx(263), "p99": pytest.approx(615)}


@pytest.mark.parametrize(("parse", "text"), [
    (outputs.netbench, NETBENCH.replace("7882", "0")),
    (outputs.wrk, WRK + "  Socket errors: connect 0, read 12, write 0, timeout 0\n"),
    (outputs.wrk, WRK + "  Non-2xx or 3xx responses: 3\n"),
    (outputs.wrk, "unable to connect to 10.0.0.1:80 Connection refused\n"),
    (outputs.memcaslap, "Run time: 0.0s"),
    (outputs.pgbench, PGBENCH.replace("transactions: 0", "transactions: 2")),
    (outputs.pgbench, ""),
    (outputs.redis_benchmark, ""),
    (outputs.redis_benchmark, REDIS + "Error from server: OOM\n"),
])
def test_errors_are_no_figures(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(BenchError):
        parse(text)
