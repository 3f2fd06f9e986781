"""What Prometheus is told of a service (https://prometheus.io/docs/practices/naming/)."""

import math
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import Scope

from evoxtral.inference.scheduler import Scheduler
from evoxtral.serve.limits import Turns
from evoxtral.transcript import Transcript

MEDIA_TYPE = CONTENT_TYPE_LATEST
_ROWS = (1, 2, 4, 8, 16, 32, 64, 96)
_FACTORS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class _BatchSizes:
    """How many rows were decoded together, step by step, as a histogram; the scheduler counts."""

    def __init__(self, scheduler: Callable[[], Scheduler | None]):
        self._scheduler = scheduler

    def collect(self) -> Iterator[HistogramMetricFamily]:
        found = self._scheduler()
        steps = dict(found.steps) if found else {}
        buckets = [
            (str(float(most)), sum(count for rows, count in steps.items() if rows <= most))
            for most in (*_ROWS, math.inf)
        ]
        buckets[-1] = ("+Inf", buckets[-1][1])
        family = HistogramMetricFamily("evoxtral_batch_rows", "Rows that were decoded together, for each step.")
        family.add_metric([], buckets, sum(rows * count for rows, count in steps.items()))
        yield family


class Monitor:
    """Counts of one service."""

    def __init__(self, turns: Turns, scheduler: Callable[[], Scheduler | None]):
        """scheduler: that of the engine, None while it is loaded."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "evoxtral_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self._audio = Counter("evoxtral_audio_seconds", "Seconds of audio transcribed.", registry=registry)
        self._decoding = Counter("evoxtral_decoding_seconds", "Seconds spent on it.", registry=registry)
        self._tokens = Counter("evoxtral_tokens", "Tokens decoded, by variant.", ["variant"], registry=registry)
        registry.register(_BatchSizes(scheduler))
        self._factor = Histogram(
            "evoxtral_real_time_factor",
            "Seconds of computing for a second of audio.",
            buckets=_FACTORS,
            registry=registry,
        )

        def waiting() -> int:
            return found.waiting if (found := scheduler()) else 0

        def rows() -> int:
            return found.rows if (found := scheduler()) else 0

        for name, text, count in (
            ("evoxtral_queue", "Requests that wait for their turn.", lambda: turns.waiting),
            ("evoxtral_decoding", "Requests that are decoded now.", lambda: turns.decoding),
            ("evoxtral_windows_waiting", "Windows that wait to be encoded.", waiting),
            ("evoxtral_rows", "Rows that are decoded together now.", rows),
        ):
            Gauge(name, text, registry=registry).set_function(count)

    def answered(self, scope: Scope, status: int) -> None:
        """A request has been answered. Paths that no route has are counted together: a client could invent any."""
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(route, str(status)).inc()

    def transcribed(self, transcripts: Mapping[str, Transcript]) -> None:
        """A recording has been transcribed by these variants."""
        duration = next(iter(transcripts.values())).duration
        elapsed = max(transcript.elapsed for transcript in transcripts.values())
        self._audio.inc(duration)
        self._decoding.inc(elapsed)
        if duration:
            self._factor.observe(elapsed / duration)
        for name, transcript in transcripts.items():
            self._tokens.labels(name).inc(transcript.token_count)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
